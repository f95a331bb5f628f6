"""Several ranks train the same run as one, under real torchrun on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tcae_cli.autoencoders.tcae import read_header
from tcae_cli.errors import DeviceError, UsageError
from tcae_cli.jobs.train import train
from tcae_cli.recipe.load import dump_recipe
from tcae_cli.recipe.schema import Recipe
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.train import TrainRequest
from tcae_cli.runtime import distributed
from tcae_cli.runtime.launch import run_ranks

from ..forked import Run, free_port
from ..small_recipes import FULL, recipe

TORCHRUN = (
    "-m",
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "localhost:0",
)


def request(photos: Path, run: Path, recipe: Recipe, **options) -> TrainRequest:
    return TrainRequest(recipe=recipe, data=str(photos), out=run, device="cpu", num_workers=0, **options)


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def arguments(photos: Path, run: Path, recipe: Recipe) -> list[str]:
    """The command line of a run."""
    path = run.with_suffix(".yaml")
    path.write_text(dump_recipe(recipe))
    options = ["--out", str(run), "--device", "cpu", "--workers", "0"]
    return ["train", str(path), "--data", str(photos), *options]


@pytest.fixture
def two_ranks(forks) -> Callable[..., list[Run]]:
    """Starts two ranks without a launcher that would end one with the other, as under Slurm."""

    def start(*of_the_run) -> list[Run]:
        launch = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        return [forks.start(arguments(*of_the_run), launch | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]

    return start


def wait_for_a_checkpoint(run: Path, ranks: Sequence[Run]) -> None:
    deadline = time.monotonic() + 120
    while not (run / "state.safetensors").exists():
        assert ranks[0].poll() is None and time.monotonic() < deadline, ranks[0].communicate()[1]
        time.sleep(0.01)


def assert_same_losses(one: Path, other: Path) -> None:
    assert len(metrics(one)) == 6
    for ours, theirs in zip(metrics(one), metrics(other), strict=True):
        for name in ("loss", "l1", "class_token", "masked_patch", "teacher_entropy", "feature_spread"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-3, abs=1e-5), (name, ours["step"])
        for name in ours.keys() & theirs.keys() & {"generator", "discriminator", "grad_norm"}:
            assert ours[name] == pytest.approx(theirs[name], rel=2e-2, abs=1e-3), (name, ours["step"])
        if "gradient_cosine" in ours.keys() & theirs.keys():
            # A cosine near 0 has no relative precision; a discriminator's first steps magnify rounding.
            tolerance = 0.02 if "generator" in ours else 1e-3
            assert ours["gradient_cosine"] == pytest.approx(theirs["gradient_cosine"], abs=tolerance), ours["step"]


@pytest.fixture(scope="module")
def on_one_rank(photos, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("one") / "run"
    train(request(photos, run, recipe(**FULL)), Silent())
    return run


def test_two_ranks_make_the_losses_of_one(on_one_rank, photos, tmp_path):
    command = [sys.executable, *TORCHRUN, "-m", "tcae_cli", *arguments(photos, tmp_path / "run", recipe(**FULL))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("step 6 after") == 1  # one rank reports
    assert_same_losses(on_one_rank, tmp_path / "run")


def test_a_sharded_model_makes_the_losses_of_a_whole_one_and_goes_on_on_one_rank(
    on_one_rank, photos, two_ranks, tmp_path
):
    """FSDP2 on two ranks is killed after the first checkpoint; one rank, which holds everything, finishes the run."""
    run, sharded = tmp_path / "run", recipe(**FULL, train={"sharded": True})
    ranks = two_ranks(photos, run, sharded)
    wait_for_a_checkpoint(run, ranks)
    for rank in ranks:
        rank.kill()
        rank.communicate()
    train(request(photos, run, sharded, resume=True), Silent())

    assert_same_losses(on_one_rank, run)
    assert read_header(str(run)).step == 6


def test_a_batch_that_cannot_be_shared_is_refused(photos, tmp_path, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="MASTER_ADDR is not set"):
        train(request(photos, tmp_path / "run", recipe()), Silent())
    monkeypatch.setattr(distributed, "in_a_launch", lambda: False)
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(UsageError, match="batch_size 4 cannot be shared among 3 ranks; use a multiple of 3"):
        train(request(photos, tmp_path / "run", recipe()), Silent())


def kill_rank_one(request: TrainRequest, progress):
    if distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return train(request, progress)


def test_a_rank_that_is_killed_ends_the_launch_in_one_sentence(photos, tmp_path, capfd):
    with pytest.raises(DeviceError, match="rank 1 with exit code -9"):
        run_ranks(kill_rank_one, request(photos, tmp_path / "run", recipe()), Silent(), 2)
    assert "Traceback" not in capfd.readouterr().err


def test_a_rank_that_is_left_alone_says_so(photos, two_ranks, tmp_path):
    """One rank is killed in the middle of the run."""
    ranks = two_ranks(photos, tmp_path / "run", recipe(steps=100_000, **FULL))
    wait_for_a_checkpoint(tmp_path / "run", ranks)
    ranks[1].kill()
    _, err = ranks[0].communicate(timeout=60)
    ranks[1].communicate()

    assert ranks[0].returncode == 1
    assert "rank 0 lost another rank of the launch" in err and "resume from the last checkpoint with --resume" in err
    assert "Traceback" not in err
    assert read_header(str(tmp_path / "run")).step >= 3
