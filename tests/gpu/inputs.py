"""Images, models and recipes for the sections: made from seeds and installed packages, each by the first that asks."""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from safetensors.torch import save_file

from tcae_cli.autoencoders.checkpoint import LatentStatistics, ModelDescription, save_checkpoint
from tcae_cli.features.dino import NETWORKS as DINO
from tcae_cli.images.image_file import decode_image, encode_image
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.load import load_recipe
from tcae_cli.recipe.schema import ModelSpec, Recipe
from tests.gpu.findings import Setting

RECIPES = Path(__file__).parents[2] / "recipes"
NUM_CLASSES = 8
_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")  # of scikit-image
_SMALL_MODEL = {"patch_size": 8, "latent_channels": 8, "width": 32, "depths": (1, 1), "num_heads": 2}


def images(setting: Setting) -> Path:
    """Return a folder of JPEGs in class folders, no two alike: 4,096, or 96 at toy size."""
    folder = setting.folder / "images"
    if not folder.exists():
        partial = setting.folder / "images.partial"
        for label in range(NUM_CLASSES):
            (partial / str(label)).mkdir(parents=True)
        package = find_spec("skimage")
        assert package is not None and package.origin is not None
        data = Path(package.origin).parent / "data"
        photographs = [decode_image((data / name).read_bytes()) for name in _PHOTOGRAPHS]
        sides = setting.choose((288, 400), (72, 96))

        def write(number: int) -> None:
            window = _window(photographs[number % len(photographs)], sides, np.random.default_rng(number))
            path = partial / str(number % NUM_CLASSES) / f"{number:05d}.jpg"
            path.write_bytes(encode_image(window, "jpg"))

        with ThreadPoolExecutor() as pool:
            list(pool.map(write, range(setting.choose(4096, 96))))
        partial.rename(folder)
    return folder


def _window(photograph: np.ndarray, sides: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Return a window [h, w, 3] of a photograph, whose sides are within a range, in pixels."""
    height, width = (min(side, int(random.integers(*sides))) for side in photograph.shape[:2])
    top = int(random.integers(photograph.shape[0] - height + 1))
    left = int(random.integers(photograph.shape[1] - width + 1))
    return photograph[top : top + height, left : left + width]


def few_images(setting: Setting) -> Path:
    """Return a list that names a few of the images: 16, or 4 at toy size."""
    path = setting.folder / "few.txt"
    paths = sorted(images(setting).glob("*/*.jpg"))
    path.write_text("".join(f"{each}\n" for each in paths[:: len(paths) // setting.choose(16, 4)]))
    return path


def image_size(setting: Setting) -> int:
    """Return the side, in pixels, of the images that models see."""
    return setting.choose(256, 64)


def model_keys(setting: Setting) -> dict[str, object]:
    """Return the section `model` of recipes: B with patches of 8, or a toy."""
    shape = setting.choose({"preset": "B", "patch_size": 8, "latent_channels": 128}, _SMALL_MODEL)
    return {"image_size": image_size(setting), **shape}


def random_model(setting: Setting) -> Path:
    """Return a checkpoint of that model with random weights."""
    path = setting.folder / "random.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        spec = ModelSpec.model_validate(model_keys(setting))
        channels = spec.latent_channels
        statistics = LatentStatistics(mean=[0.0] * channels, std=[1.0] * channels, num_images=1)
        description = ModelDescription(spec=spec, statistics=statistics, recipe={}, step=0)
        save_checkpoint(path, TCAE(spec).state_dict(), description)
    return path


def random_weights(setting: Setting, name: str) -> Path:
    """Return a file with random weights of a network of the losses."""
    path = setting.folder / f"{name}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        if name in DINO:
            network = timm.create_model(DINO[name], pretrained=False, num_classes=0)
        else:
            network = {"lpips-vgg": torchvision.models.vgg16}.get(name, torchvision.models.squeezenet1_1)(weights=None)
        save_file(network.state_dict(), path)
    return path


def recipe(setting: Setting, name: str, *overrides: str, parent: ModelSpec | None = None) -> Recipe:
    """Return a recipe of the project with keys changed, and at toy size a smaller one of the same parts."""
    size = image_size(setting)
    small = [f"data.resize_min={size}", f"data.resize_max={size + 8}", "loss.perceptual.network=squeezenet1_1"]
    if parent is None:
        small += [
            f"model.{key}={list(value) if isinstance(value, tuple) else value}" for key, value in _SMALL_MODEL.items()
        ]
        crops = {"global_size": 48, "local_size": 16, "num_local_crops": 2, "num_prototypes": 32, "head_width": 16}
        small += [f"model.image_size={size}", *(f"loss.self_distillation.{key}={each}" for key, each in crops.items())]
    return load_recipe(RECIPES / f"{name}.yaml", [*setting.choose([], small), *overrides], parent=parent)
