"""A dry run of training: its figures against counts and against a step that is computed; it writes nothing."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from tcae_cli.autoencoders.tcae import read_header
from tcae_cli.errors import CheckpointError, NotFoundError, UsageError
from tcae_cli.evaluation.metrics.cost import counted_cost
from tcae_cli.jobs import plan_train
from tcae_cli.jobs.plan_train import plan_training
from tcae_cli.jobs.train import train
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.load import load_recipe
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.train import TrainRequest
from tcae_cli.reports.train_plan import TrainPlan, TrainPlanRequest
from tcae_cli.training import pace
from tcae_cli.training.cost import training_flops

from ..evaluation.metrics.test_cost import card
from ..small_recipes import FULL, recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
SMALL = next(path for path in RECIPES if path.stem == "imagenet256-small")
REAL_STEP = """
import sys
from pathlib import Path
import torch
from tcae_cli.recipe.load import load_recipe
from tcae_cli.runtime.memory import peak_bytes
from tcae_cli.training.blank import BlankRun, blank_batch
from tcae_cli.training.step import training_step

recipe = load_recipe(Path(sys.argv[1]), sys.argv[2:])

def one_step():
    run = BlankRun(recipe, torch.device("cpu"), freeze_encoder=False)
    run.allocate_to_train()
    training_step(run.trainer, run.state, blank_batch(recipe, recipe.train.batch_size))

print(peak_bytes(one_step, torch.device("cpu")))
"""


@pytest.fixture
def quick(monkeypatch) -> None:
    """Time one block, once."""
    monkeypatch.setattr(pace, "_BLOCKS_S", 0.0)
    monkeypatch.setattr(pace, "_STEPS_S", 0.0)


def plan(out: Path, which=None, data: str = "", num_ranks: int = 1, **options) -> TrainPlan:
    request = TrainRequest(recipe=which or recipe(), data=data, out=out, device="cpu", num_workers=0, **options)
    asked = TrainPlanRequest(train=request, num_ranks=num_ranks, no_data="no images are named")
    return plan_training(asked, Silent())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_estimated_without_data_and_without_a_network(path, tcae, quick, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)

    code, stdout, stderr = tcae("train", path, "--dry-run", "--json", "--device", "cpu")

    assert code == 0, stderr
    report = json.loads(stdout)
    assert report["steps"] == load_recipe(path).train.steps
    assert report["parameters"] and report["memory_bytes"] > 4 * report["parameters"]
    assert report["seconds"]["lowest"] <= report["seconds"]["highest"]
    assert report["num_images"] is None and report["missing"]
    assert not (tmp_path / "runs").exists()


def test_the_macs_of_the_small_recipe_are_exact(quick, tmp_path):
    small = load_recipe(SMALL, ["loss.perceptual=none", "loss.adversarial=none"])

    found = plan(tmp_path / "run", small)

    with torch.device("meta"):
        counted = counted_cost(TCAE(small.model), card(128, 32), 256)
    assert found.encode_macs == counted["encode-macs"] and found.decode_macs == counted["decode-macs"]
    assert found.step_macs == training_flops(small) / 2
    assert found.parameters == counted["encoder-parameters"] + counted["decoder-parameters"]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read off Linux's /proc")
def test_the_memory_of_the_small_recipe_is_that_of_a_real_step(quick, forks, tmp_path):
    """At half the size: a step at 256 px takes half a minute on two cores."""
    halved = ["model.image_size=128", "loss.self_distillation.global_size=112", "loss.self_distillation.local_size=48"]
    changes = [*halved, "train.batch_size=2", "train.accumulate=1"]
    step = forks.start([str(SMALL), *changes], os.environ, REAL_STEP)
    printed, said = step.communicate(timeout=240)
    assert step.returncode == 0, said
    real = int(printed)

    assert plan(tmp_path / "run", load_recipe(SMALL, changes)).memory_bytes == pytest.approx(real, rel=0.25)


def test_the_checkpoint_has_the_size_that_was_estimated(photos, quick, tmp_path):
    loss = {
        **FULL["loss"],
        "adversarial": {"discriminator": "patchgan", "discriminator_start": 0, "generator_start": 0},
    }
    settings = recipe(steps=1, model=FULL["model"], loss=loss)
    expected = plan(tmp_path / "run", settings, str(photos))
    assert not (tmp_path / "run").exists()

    report = train(
        TrainRequest(recipe=settings, data=str(photos), out=tmp_path / "run", device="cpu", num_workers=0), Silent()
    )

    sizes = [(report.run / name).stat().st_size for name in ("model.safetensors", "state.safetensors")]
    assert sum(sizes) == pytest.approx(expected.checkpoint_bytes, rel=0.05)
    assert (expected.num_images, expected.epochs) == (24, 1 * 4 / 24)
    assert expected.read_images_per_s and not expected.missing


def test_ranks_share_the_batch_and_the_time(quick, tmp_path):
    one, two = (plan(tmp_path / "run", num_ranks=ranks) for ranks in (1, 2))

    assert (one.micro_batch, two.micro_batch) == (4, 2)
    assert two.memory_bytes < one.memory_bytes


def test_what_training_refuses_a_dry_run_refuses(quick, photos, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(NotFoundError, match=r"run has no state\.safetensors to resume from"):
        plan(tmp_path / "run", resume=True)
    (tmp_path / "run" / "model.safetensors").touch()
    for resume in (False, True):
        with pytest.raises(UsageError, match=r"holds model\.safetensors, and no state\.safetensors .* another --out"):
            plan(tmp_path / "run", resume=resume)
    (tmp_path / "run" / "state.safetensors").touch()
    with pytest.raises(UsageError, match="run exists; continue it with --resume, or give another --out"):
        plan(tmp_path / "run")
    with pytest.raises(UsageError, match=r"train\.batch_size 4 cannot be shared among 3 ranks"):
        plan(tmp_path / "other", num_ranks=3)
    with pytest.raises(UsageError, match="nowhere does not exist"):
        plan(tmp_path / "other", data=str(tmp_path / "nowhere"))


def test_a_disk_that_is_too_small_is_named_and_makes_the_exit_code_1(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(plan_train, "free_bytes", lambda path: 1000)

    found = plan(tmp_path / "run")

    assert found.exit_code == 1
    assert f"the disk of {tmp_path / 'run'} is too small; free some space, or give another --out" in found.missing


@pytest.mark.parametrize(
    ("train", "advice"),
    [
        ({}, "use --set train.accumulate=2 or --set train.checkpointing=true or more GPUs"),
        ({"batch_size": 9}, "use --set train.accumulate=3 or --set train.checkpointing=true or more GPUs"),
        ({"batch_size": 1, "checkpointing": True}, "use a device with more memory, or a smaller model"),
    ],
)
def test_a_device_that_is_too_small_is_told_what_the_recipe_can_take(quick, tmp_path, monkeypatch, train, advice):
    monkeypatch.setattr(plan_train, "total_bytes", lambda device: 1000)

    found = plan(tmp_path / "run", recipe(train=train))

    assert f"the memory of the device is too small; {advice}" in found.missing


def test_a_small_model_is_timed_on_whole_steps(tmp_path):
    found = plan(tmp_path / "run")

    assert found.pace_basis.startswith("steps of 4 black images")
    assert 0 < found.seconds_per_step.lowest <= found.seconds_per_step.highest


def test_a_frozen_encoder_learns_nothing_and_takes_less_memory(quick, small_checkpoint, tmp_path):
    spec = read_header(str(small_checkpoint)).spec
    whole = recipe(model=spec.model_dump(mode="json"))

    free, frozen = (
        plan(tmp_path / "run", whole, parent=str(small_checkpoint), freeze_encoder=freeze) for freeze in (False, True)
    )

    assert free.trained_parameters == free.parameters
    assert 0 < frozen.trained_parameters < free.trained_parameters
    assert frozen.memory_bytes < free.memory_bytes


def test_a_run_that_resumes_has_no_more_steps_than_are_left_and_must_be_the_same(photos, quick, tmp_path):
    request = TrainRequest(recipe=recipe(), data=str(photos), out=tmp_path / "run", device="cpu", num_workers=0)
    train(request, Silent())
    before = {path: path.stat().st_mtime_ns for path in request.out.rglob("*")}

    found = plan(request.out, recipe(), str(photos), resume=True)

    assert (found.first_step, found.steps, found.seconds.highest) == (6, 6, 0.0)
    with pytest.raises(CheckpointError, match=r"was begun otherwise: train\.steps was 6, is 12"):
        plan(request.out, recipe(steps=12), str(photos), resume=True)
    assert {path: path.stat().st_mtime_ns for path in request.out.rglob("*")} == before
