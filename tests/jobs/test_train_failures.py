"""A failure ends a training run in one sentence, and the last checkpoint stays valid."""

import os
import re
import resource
import signal

import pytest
import torch

from tcae_cli.autoencoders.by_name import load_autoencoder
from tcae_cli.autoencoders.tcae import read_header
from tcae_cli.errors import DeviceError, DiskError, SourceError, TcaeError, UsageError
from tcae_cli.jobs import train as jobs_train
from tcae_cli.jobs.train import train
from tcae_cli.recipe.load import dump_recipe
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.train import TrainRequest

from ..small_recipes import recipe


def request(photos, run, recipe, **options) -> TrainRequest:
    return TrainRequest(recipe=recipe, data=str(photos), out=run, device="cpu", num_workers=0, **options)


def test_a_loss_that_is_not_a_number(photos, tmp_path):
    wild = recipe(optimizer={"lr": 1e30, "warmup": 0.0})
    with pytest.raises(TcaeError, match=r"is (nan|inf) at step \d; the last checkpoint remains: lower optimizer.lr"):
        train(request(photos, tmp_path / "run", wild), Silent())
    assert not (tmp_path / "run" / "model.safetensors").exists()  # none that is not a number


def test_fewer_images_than_a_batch(photos, tmp_path):
    with pytest.raises(
        SourceError, match=r"has 24 images, fewer than train\.batch_size 32; .* --set train\.batch_size=24"
    ):
        train(request(photos, tmp_path / "run", recipe(train={"batch_size": 32})), Silent())


def test_no_images_at_all(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TcaeError, match="empty"):
        train(request(tmp_path / "empty", tmp_path / "run", recipe()), Silent())


def test_a_run_folder_that_is_a_file(photos, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UsageError, match="is a file; give --out a folder"):
        train(request(photos, tmp_path / "run", recipe()), Silent())


def test_a_disk_that_is_full_at_a_checkpoint(photos, tmp_path):
    """A limit on file sizes simulates a full disk: the state of the second checkpoint does not fit."""
    run, limits = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    class FillUp(Silent):
        steps = 0

        def advance(self, count=1, failed=0, note=""):
            self.steps += count
            if self.steps == 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))

    try:
        with pytest.raises(DiskError, match="cannot be written: the limit on a file's size is reached"):
            train(request(photos, run, recipe()), FillUp())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert read_header(str(run)).step == 3
    report = train(request(photos, run, recipe(), resume=True), Silent())
    assert report.steps == 6


KILLED = """
import os, signal, sys
from tcae_cli.cli import main
left, when = int(sys.argv.pop(1)), sys.argv.pop(1)
rename = os.replace
def killed(source, target):
    global left
    if str(target).endswith(".safetensors"):
        left -= 1
    if not left and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = killed
main()
"""


@pytest.mark.parametrize(("file", "when", "model_step"), [(3, "before", 3), (4, "before", 6)])
def test_kill_9_while_a_checkpoint_is_written_leaves_one_to_go_on_from(photos, forks, tmp_path, file, when, model_step):
    """Of the first checkpoint the state is file 1, the model file 2; of the second the model is file 3, the state 4."""
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe(steps=9)))
    run = tmp_path / "run"
    arguments = ["train", tmp_path / "recipe.yaml", "--data", photos, "--out", run, "--device", "cpu", "--workers", "0"]
    killed = forks.start([str(file), when, *map(str, arguments)], os.environ, KILLED)
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL

    assert read_header(str(run)).step == model_step
    assert torch.isfinite(load_autoencoder(str(run)).encode(torch.zeros(1, 3, 64, 64))).all()
    assert train(request(photos, run, recipe(steps=9), resume=True), Silent()).steps == 9


@pytest.mark.parametrize("file", [1, 2])
@pytest.mark.parametrize("steps", [3, 6])
def test_kill_9_while_the_first_checkpoint_is_written_leaves_a_run_to_repeat_or_to_resume(
    photos, forks, tmp_path, file, steps
):
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe(steps=steps)))
    run = tmp_path / "run"
    arguments = ["train", tmp_path / "recipe.yaml", "--data", photos, "--out", run, "--device", "cpu", "--workers", "0"]
    killed = forks.start([str(file), "before", *map(str, arguments)], os.environ, KILLED)
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL

    has_state = (run / "state.safetensors").exists()
    assert train(request(photos, run, recipe(steps=steps), resume=has_state), Silent()).steps == steps
    assert read_header(str(run)).step == steps


@pytest.fixture
def fits(monkeypatch):
    """Lets only so many images at once fit into the memory of the device, from a step on."""
    honest = jobs_train.training_step

    def limit(most: int, from_step: int = 1) -> None:
        def step(trainer, state, batch, **options):
            train = trainer.recipe.train
            if state.step + 1 >= from_step and train.batch_size // train.accumulate > most and not train.checkpointing:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return honest(trainer, state, batch, **options)

        monkeypatch.setattr(jobs_train, "training_step", step)

    return limit


@pytest.mark.parametrize("most", [1, 0])
def test_running_out_of_device_memory_names_a_setting_that_takes_less(photos, tmp_path, fits, most):
    fits(most)
    changes, advised = {}, []
    while True:
        try:
            train(request(photos, tmp_path / "run", recipe(steps=1, train={"batch_size": 6, **changes})), Silent())
            break
        except DeviceError as error:
            images, key, value, other = re.fullmatch(
                r"out of memory on the device with (\d images?)(?: at once)?; repeat with --set train\.(\w+)=(\w+)"
                r"( or --set train\.checkpointing=true)?",
                str(error),
            ).groups()
            assert error.options == {"--set": f"train.{key}={value}"}
            assert bool(other) == (key != "checkpointing")
            advised.append((images, key, value))
            changes[key] = yaml_value(value)
    of_one = [] if most else [("1 image", "checkpointing", "true")]
    assert advised == [("6 images", "accumulate", "2"), ("3 images", "accumulate", "6"), *of_one]


def yaml_value(text: str) -> int | bool:
    return True if text == "true" else int(text)


def test_out_of_memory_after_a_checkpoint_is_resumed_in_smaller_parts(photos, tmp_path, fits):
    fits(2, from_step=2)
    settings = {"batch_size": 4, "checkpoint_every": 1}
    with pytest.raises(
        DeviceError,
        match=r"with 4 images at once; repeat with --resume and --set train\.accumulate=2 or --set .*=true$",
    ):
        train(request(photos, tmp_path / "run", recipe(steps=2, train=settings)), Silent())
    halved = recipe(steps=2, train={**settings, "accumulate": 2})
    assert train(request(photos, tmp_path / "run", halved, resume=True), Silent()).steps == 2
