"""Every recipe takes two steps on a shrunken model, with networks that need no published weights."""

import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

from tcae_cli.autoencoders.tcae import read_header
from tcae_cli.jobs.train import train
from tcae_cli.recipe.load import load_recipe
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.train import TrainRequest

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
SHRUNKEN = [
    "model.image_size=64",
    "data.resize_min=64",
    "data.resize_max=72",
    "train.steps=2",
    "train.batch_size=2",
    "train.log_every=1",
]
SHAPE = [
    "model.patch_size=4",
    "model.downsampling=8",
    "model.latent_channels=8",
    "model.width=32",
    "model.depths=[1, 1]",
    "model.num_heads=2",
]
CROPS = ["global_size=32", "local_size=16", "num_local_crops=2", "num_prototypes=32", "head_width=16"]
GAME = ["discriminator=patchgan", "discriminator_start=0.0", "generator_start=0.0"]


@pytest.fixture(scope="session")
def squeezenet(tmp_path_factory) -> Path:
    """Write random weights under torchvision's names."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    safetensors.torch.save_file(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return path


def shrink(path: Path) -> list[str]:
    loss = load_recipe(path).loss
    overrides = SHRUNKEN.copy()
    if loss.perceptual:
        overrides.append("loss.perceptual.network=squeezenet1_1")
    if loss.adversarial:
        overrides += [f"loss.adversarial.{key}" for key in GAME]
    if loss.self_distillation:
        overrides += [f"loss.self_distillation.{key}" for key in CROPS]
    return overrides


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_two_steps_of_each_recipe(path, photos, squeezenet, small_checkpoint, tmp_path):
    finetunes = path.stem.endswith("finetune")
    parent = str(small_checkpoint) if finetunes else None
    spec = read_header(parent).spec if parent else None
    recipe = load_recipe(path, shrink(path) + ([] if finetunes else SHAPE), parent=spec)
    request = TrainRequest(
        recipe=recipe,
        data=str(photos),
        out=tmp_path / "run",
        parent=parent,
        weights={"squeezenet1_1": squeezenet},
        device="cpu",
        num_workers=0,
    )
    report = train(request, Silent())

    assert report.steps == read_header(str(report.run)).step == 2
    lines = [json.loads(line) for line in (report.run / "metrics.jsonl").read_text().splitlines()]
    wanted = {"l1"} | {name for name, part in terms(recipe) if part is not None}
    assert wanted <= lines[-1].keys()
    assert all(math.isfinite(line["loss"]) for line in lines) and len(lines) == 2


def terms(recipe):
    """Return a figure of the log for each part of the loss."""
    loss = recipe.loss
    yield from [("perceptual", loss.perceptual), ("masked_patch", loss.self_distillation)]
    yield from [("generator", loss.adversarial), ("discriminator", loss.adversarial)]
