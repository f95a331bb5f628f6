"""Real photographs at test size, and a small model to encode them with."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image

from tcae_cli.checkpoint import LatentStatistics, save_checkpoint
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import ModelSpec

PHOTOGRAPHS = {"animal": "chelsea.png", "person": "astronaut.png", "thing": "coffee.png"}
SMALL_MODEL = {"image_size": 64, "patch_size": 8, "latent_channels": 8, "width": 32, "depths": (1, 1), "num_heads": 2}


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """24 photographs of 72 x 96 pixels, JPEG, in three class folders."""
    folder = tmp_path_factory.mktemp("photos")
    package = Path(find_spec("skimage").origin).parent / "data"
    for label, name in PHOTOGRAPHS.items():
        (folder / label).mkdir()
        with Image.open(package / name) as picture:
            for number in range(8):
                left, top = 24 * (number % 4), 40 * (number // 4)
                window = picture.convert("RGB").crop((left, top, left + 288, top + 216)).resize((96, 72))
                window.save(folder / label / f"{number}.jpg", quality=92)
    return folder


@pytest.fixture(scope="session")
def many_photos(photos, tmp_path_factory) -> Path:
    """240 of them, no two alike, without classes: 15 shards."""
    folder = tmp_path_factory.mktemp("many")
    for index, path in enumerate(sorted(photos.rglob("*.jpg"))):
        with Image.open(path) as picture:
            for turn in range(10):
                picture.rotate(turn * 9).save(folder / f"{index:02d}-{turn}.jpg", quality=92)
    return folder


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory) -> Path:
    """A small model with random weights."""
    torch.manual_seed(0)
    spec = ModelSpec(**SMALL_MODEL)
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    statistics = LatentStatistics(mean=[0.0] * 8, std=[1.0] * 8, num_images=1)
    save_checkpoint(path, TCAE(spec).state_dict(), spec=spec, statistics=statistics, recipe={}, step=0)
    return path
