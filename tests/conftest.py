"""Real photographs at test size, a small model to encode them with, and an object store on this machine."""

import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from multiprocessing import forkserver
from pathlib import Path
from uuid import uuid4

import pytest
import s3fs
import torch
from PIL import Image

from tcae_cli.checkpoint import LatentStatistics, save_checkpoint
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import ModelSpec

PHOTOGRAPHS = {"animal": "chelsea.png", "person": "astronaut.png", "thing": "coffee.png"}
SMALL_MODEL = {"image_size": 64, "patch_size": 8, "latent_channels": 8, "width": 32, "depths": (1, 1), "num_heads": 2}


@pytest.fixture(autouse=True)
def a_cache_of_its_own(tmp_path_factory, monkeypatch) -> None:
    """Each test keeps what can be computed again in a folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


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
    return save_small_model(tmp_path_factory.mktemp("model") / "small.safetensors", seed=0)


def save_small_model(path: Path, seed: int) -> Path:
    """A small model with random weights of that seed."""
    torch.manual_seed(seed)
    spec = ModelSpec(**SMALL_MODEL)
    statistics = LatentStatistics(mean=[0.0] * 8, std=[1.0] * 8, num_images=1)
    save_checkpoint(path, TCAE(spec).state_dict(), spec=spec, statistics=statistics, recipe={}, step=0)
    return path


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """The URL of an S3 server; s3:// leads there while the session lasts, in processes that tests start too."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        forkserver._forkserver._stop()  # workers have the environment that their server started with
        yield os.environ["AWS_ENDPOINT_URL"]
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def bucket(object_store: str) -> str:
    """A new bucket, as "s3://name"; what is put there can be read by anyone at {object_store}/name too, if public."""
    name = f"bucket-{uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"
