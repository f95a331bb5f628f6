"""Every command that reads images says how many it found and which files it passed over, before it works on them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tcae_cli.jobs.evaluate import evaluate
from tcae_cli.jobs.train import train
from tcae_cli.jobs.verify import verify_store
from tcae_cli.reports.evaluation import EvalRequest
from tcae_cli.reports.progress import Progress, Silent
from tcae_cli.reports.store import VerifyRequest
from tcae_cli.reports.train import TrainRequest

from ..small_recipes import recipe

FOUND = "24 images; 3 of 27 files (11.11%) are not images and were passed over: 2 .heic, 1 no suffix"


class Heard(Silent):
    """The sentences of a job until its first task."""

    def __init__(self) -> None:
        self.before: list[str] = []
        self.has_begun = False

    def say(self, sentence: str) -> None:
        if not self.has_begun:
            self.before.append(sentence)

    def start(self, task: str, total: int, done: int = 0, unit: str = "images") -> None:
        self.has_begun = self.has_begun or task not in ("check", "statistics")


@pytest.fixture
def source(photos, tmp_path) -> Path:
    folder = shutil.copytree(photos, tmp_path / "photos")
    for name in ("a.heic", "person/b.heic", "person/c"):
        (folder / name).touch()
    return folder


@pytest.fixture(params=["encode-dataset", "verify", "train", "eval"])
def run(request, source, tmp_path, encode, small_checkpoint) -> Callable[[Progress], object]:
    """Runs a command on the source."""
    if request.param == "encode-dataset":
        return lambda progress: encode(source, tmp_path / "store.zarr", progress)
    if request.param == "verify":
        encode(source, tmp_path / "store.zarr")
        wish = VerifyRequest(store=str(tmp_path / "store.zarr"), source=str(source), num_rows=0, device="cpu")
        return lambda progress: verify_store(wish, progress)
    if request.param == "train":
        training = TrainRequest(
            recipe=recipe(steps=1), data=str(source), out=tmp_path / "run", device="cpu", num_workers=0, resume=False
        )
        return lambda progress: train(training, progress)
    evaluation = EvalRequest(
        metrics=("psnr",), models=(str(small_checkpoint),), data=str(source), device="cpu", num_workers=0
    )
    return lambda progress: evaluate(evaluation, progress)


def test_files_that_are_not_images_are_counted_by_suffix(run, source):
    heard = Heard()
    run(heard)
    assert f"{source}: {FOUND}" in heard.before
