"""The three lines that this tool is for, as they are typed on a fresh machine; what they fetch is served here."""

import io
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor
from torchvision.models.inception import Inception3

from tcae_cli.images.image_file import encode_image
from tcae_cli.recipe.presets import PRESETS
from tcae_cli.store.reader import LatentStore
from tcae_cli.training.interval import Interval

from .hub_server import HubServer
from .tables import parquet
from .weights_server import WeightsServer

ROOT = Path(__file__).parents[1]
TRAIN = "tcae train recipes/imagenet256.yaml"
ENCODE = "tcae encode-dataset ./imgs out.zarr --gpus 8"
EVAL = "tcae eval --metric rfid"
IMAGENET = "ILSVRC/imagenet-1k"


@pytest.fixture
def type_line(tcae, tmp_path, monkeypatch) -> Callable[[str], tuple[int, str, str]]:
    """Runs a line as typed in an empty folder that has the recipes; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")

    def run(line: str) -> tuple[int, str, str]:
        name, *arguments = shlex.split(line)
        assert name == "tcae"
        return tcae(*arguments)

    return run


def file_of(make: Callable[[], torch.nn.Module]) -> bytes:
    """A file of small random weights with the names and shapes of a network's."""
    with torch.device("meta"):
        network = make()
    tensors = {name: filled(name, tensor) for name, tensor in network.state_dict().items()}
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


def filled(name: str, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(len(name))
    if not like.is_floating_point():
        return torch.zeros(like.shape, dtype=like.dtype)
    if name.endswith("running_var"):
        return torch.ones(like.shape)
    return torch.randn(like.shape, generator=generator) * 0.02


def small_imagenet(hub: HubServer, num_images: int) -> None:
    """Serve pictures of 8 pixels as ImageNet."""
    rng = np.random.default_rng(0)
    pictures = [encode_image(rng.integers(0, 256, (8, 8, 3), np.uint8), "png") for _ in range(num_images)]
    files = {f"data/{split}-00000-of-00001.parquet": parquet(pictures) for split in ("train", "validation")}
    hub.put(IMAGENET, files)


def test_training_by_a_recipe_begins(type_line, hub, weights_server: WeightsServer, monkeypatch):
    small_imagenet(hub, num_images=512)
    weights_server.publish("lpips-vgg", file_of(lambda: torchvision.models.vgg16(weights=None)))
    weights_server.publish("dino-s8", file_of(lambda: timm.create_model("vit_small_patch8_224.dino", num_classes=0)))
    monkeypatch.setitem(PRESETS, "B", PRESETS["B"] | {"width": 64, "num_heads": 2, "depths": (1, 1)})
    monkeypatch.setattr(Interval, "next", lambda *_: interrupt())  # before the first of 250,228 steps

    code, _, stderr = type_line(TRAIN)
    assert code == 130, stderr
    assert "hf://datasets/ILSVRC/imagenet-1k#train: 512 images" in stderr
    assert "fetching lpips-vgg" in stderr and "fetching dino-s8" in stderr
    recorded = Path("runs/imagenet256/recipe.yaml").read_text()
    assert f"train: hf://datasets/{IMAGENET}#train" in recorded


def test_training_without_leave_to_read_imagenet_says_both_ways_out(type_line, hub):
    small_imagenet(hub, num_images=4)
    hub.gated.add(IMAGENET)
    code, _, stderr = type_line(TRAIN)
    assert code == 1
    assert f"{IMAGENET} is gated: accept its terms at" in stderr
    assert stderr.endswith("or set IMAGENET_TRAIN to the images you have or pass --data\n")


def test_encoding_on_more_gpus_than_there_are_is_answered_with_the_line_to_type(type_line, photos, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    Path("imgs").symlink_to(photos)
    code, stdout, stderr = type_line(ENCODE)
    assert (code, stdout) == (2, "")
    assert stderr == "Error: --gpus 8: no GPU is visible here; run: tcae encode-dataset ./imgs out.zarr\n"

    code, _, stderr = type_line(stderr.rpartition("run: ")[2])
    assert code == 0, stderr
    assert len(LatentStore("out.zarr").ok_rows) == 24


def test_evaluating_without_data_fetches_the_inception_and_says_how_few_images_there_are(
    type_line, weights_server: WeightsServer
):
    weights_server.publish("inception", file_of(lambda: Inception3(1008, aux_logits=False, init_weights=False)))
    code, stdout, stderr = type_line(EVAL)
    assert code == 0, stderr
    assert "fetching inception" in stderr
    assert "rfid" in stdout and "compare it with figures of as many images only" in stdout + stderr


def interrupt() -> None:
    raise KeyboardInterrupt
