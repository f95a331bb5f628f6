"""Real photographs at test size, a small model, sources, an object store on this machine, and real processes."""

import logging
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from uuid import uuid4

import huggingface_hub
import pytest
import s3fs
import torch
from PIL import Image

from tcae_cli import cli
from tcae_cli.autoencoders.checkpoint import LatentStatistics, ModelDescription, save_checkpoint
from tcae_cli.errors import ImageError
from tcae_cli.features import fetch
from tcae_cli.images import watchdog
from tcae_cli.images.image_file import encode_image
from tcae_cli.jobs import encode as encode_job
from tcae_cli.jobs import encode_source, update_metadata, verify_source
from tcae_cli.jobs.encode import encode_dataset
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import ModelSpec
from tcae_cli.reports.encode import EncodeReport, EncodeRequest
from tcae_cli.reports.progress import Silent, listening
from tcae_cli.reports.report import Tolerance
from tcae_cli.runtime import distributed, silence
from tcae_cli.runtime.registry import Registry
from tcae_cli.sources.index_apart import index_source_apart
from tcae_cli.sources.index_update import index_source
from tcae_cli.sources.source import Source
from tcae_cli.store.work import PlannedWork

from .forked import COMMAND, Forks, Run
from .forms import Sample, write_form
from .hub_server import HubServer, serve_hub
from .pictures import picture, write_tar
from .weights_server import WeightsServer, serve_weights

Pictures = Callable[..., bytes]

PHOTOGRAPHS = {"animal": "chelsea.png", "person": "astronaut.png", "thing": "coffee.png"}
SHAPES_OF_PHOTOS = [(72, 96), (96, 72), (90, 90), (60, 110), (110, 60), (96, 100)]  # height and width
SMALL_MODEL = {"image_size": 64, "patch_size": 8, "latent_channels": 8, "width": 32, "depths": (1, 1), "num_heads": 2}


@pytest.fixture(autouse=True)
def a_cache_of_its_own(tmp_path_factory, monkeypatch) -> None:
    """Each test keeps what can be computed again in a folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def no_weights_are_fetched(monkeypatch) -> None:
    """Only tests that serve pretrained weights fetch them."""
    monkeypatch.setenv("TCAE_OFFLINE", "1")


@pytest.fixture(scope="session", autouse=True)
def sources_are_indexed_here() -> Iterator[None]:
    """Commands in this process list images in it too: a process for each list would take most of many tests' time."""
    with pytest.MonkeyPatch.context() as patch:
        for job in (encode_source, update_metadata, verify_source):
            patch.setattr(job, "index_source_apart", index_source)
        yield


@pytest.fixture
def sources_are_indexed_apart(monkeypatch) -> None:
    """Commands list images in a process of its own, as they do for a user."""
    for job in (encode_source, update_metadata, verify_source):
        monkeypatch.setattr(job, "index_source_apart", index_source_apart)


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
def captioned(photos, tmp_path_factory) -> Path:
    """The photographs with a sentence beside each; animal/3.jpg is broken."""
    source = shutil.copytree(photos, tmp_path_factory.mktemp("captioned") / "photos")
    for image in source.rglob("*.jpg"):
        image.with_suffix(".txt").write_text(f"{image.parent.name} \N{SNOWMAN} {image.stem}")
    (source / "animal" / "3.jpg").write_bytes(b"not an image")
    return source


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
def shaped_photos(photos, tmp_path_factory) -> Path:
    """48 photographs of six shapes, in three class folders."""
    folder = tmp_path_factory.mktemp("shaped")
    for index, path in enumerate(sorted(photos.rglob("*.jpg"))):
        (folder / path.parent.name).mkdir(exist_ok=True)
        with Image.open(path) as picture:
            for turn in range(2):
                height, width = SHAPES_OF_PHOTOS[(2 * index + turn) % len(SHAPES_OF_PHOTOS)]
                shaped = picture.rotate(turn * 9).resize((width, height))
                shaped.save(folder / path.parent.name / f"{path.stem}-{turn}.jpg", quality=92)
    return folder


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory) -> Path:
    """A small model with random weights."""
    return save_small_model(tmp_path_factory.mktemp("model") / "small.safetensors", seed=0)


def save_small_model(path: Path, seed: int, **changes: Any) -> Path:
    """A small model with random weights of that seed."""
    torch.manual_seed(seed)
    spec = ModelSpec(**SMALL_MODEL | changes)
    statistics = LatentStatistics(mean=[0.0] * 8, std=[1.0] * 8, num_images=1)
    description = ModelDescription(spec=spec, statistics=statistics, recipe={}, step=0)
    save_checkpoint(path, TCAE(spec).state_dict(), description)
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
def hub(tmp_path, monkeypatch) -> Iterator[HubServer]:
    """A server that stands for the Hugging Face Hub, here and in processes that a test starts; the cache is empty."""
    with serve_hub() as server:
        home = tmp_path / "hf"
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(home))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        # The client reads the environment when it is imported.
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "token"))
        huggingface_hub.HfFileSystem.clear_instance_cache()
        yield server
    huggingface_hub.HfFileSystem.clear_instance_cache()


@pytest.fixture
def weights_server(tmp_path, monkeypatch) -> Iterator[WeightsServer]:
    """A server that pretrained weights are fetched from, here and in processes that a test starts.

    Caches are empty, and nothing is waited for before asking again.
    """
    monkeypatch.delenv("TCAE_OFFLINE")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(fetch, "_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(silence, "_silent_at", -math.inf)
    with serve_weights() as server:
        yield server


@pytest.fixture
def bucket(object_store: str) -> str:
    """A new bucket, as "s3://name"; what is put there can be read by anyone at {object_store}/name too, if public."""
    name = f"bucket-{uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def aside() -> Iterator[list[str]]:
    """The sentences said aside."""
    sentences: list[str] = []

    class Listener(Silent):
        def say(self, sentence: str) -> None:
            sentences.append(sentence)

    with listening(Listener()):
        yield sentences


@pytest.fixture
def png() -> Pictures:
    """Makes a PNG file's bytes."""
    return lambda *args, **kwargs: encode_image(picture(*args, **kwargs), "png")


@pytest.fixture
def make_tar(tmp_path: Path) -> Callable[[str, dict[str, bytes]], Path]:
    """Makes a tar of named members under tmp_path."""
    return lambda name, members: write_tar(tmp_path / name, members)


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """Makes a folder "photos" of named files under tmp_path."""

    def make(files: dict[str, bytes]) -> Path:
        for name, data in files.items():
            path = tmp_path / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return tmp_path / "photos"

    return make


@pytest.fixture
def write_source(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., str]:
    """Writes samples, a list for each file of many, as a source of a form in tmp_path / "source"; gives its URI."""

    def write(form: str, *parts: Sequence[Sample], where: str = "source") -> str:
        hub = request.getfixturevalue("hub") if form == "hub" else None
        return write_form(form, tmp_path / where, parts, hub)

    return write


@pytest.fixture
def put(bucket: str) -> Callable[[dict[str, bytes]], str]:
    """Puts named objects into the bucket, for anyone to read, and gives the bucket's name."""

    def put_objects(objects: dict[str, bytes]) -> str:
        for name, data in objects.items():
            s3fs.S3FileSystem().pipe_file(f"{bucket}/{name}", data, ACL="public-read")
        return bucket

    return put_objects


@pytest.fixture
def problems() -> Callable[[Source], dict[str, str]]:
    """What reading says of each row that a scan found a problem with, by key."""

    def found_in(source: Source) -> dict[str, str]:
        found = {}
        for row in range(len(source)):
            if source.problem(row):
                with pytest.raises(ImageError) as raised:
                    source.read(row)
                assert raised.value.stage == "index"
                found[source.key(row)] = str(raised.value)
        return found

    return found_in


@pytest.fixture
def soon(monkeypatch) -> Iterator[None]:
    """Notice the death of a worker at once, and check that the test leaves no process and no thread."""
    monkeypatch.setattr(watchdog, "LOOK_EVERY_S", 0.1)
    yield
    assert multiprocessing.active_children() == []
    assert not [thread for thread in threading.enumerate() if thread.name == "watchdog"]


@pytest.fixture
def add() -> Iterator[Callable[[Registry, str, Any], None]]:
    """Registers a thing for this test, perhaps in the place of another one."""
    replaced: list[tuple[Registry, str, Any]] = []

    def add_to(registry: Registry, name: str, thing: Any) -> None:
        replaced.append((registry, name, registry.get(name)))
        registry.add(name, thing)

    yield add_to
    for registry, name, before in reversed(replaced):
        if before is None:
            registry.remove(name)
        else:
            registry.add(name, before)


@pytest.fixture
def tcae(monkeypatch, capsys):
    """Runs the command line in this process; gives exit code, stdout and stderr."""

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tcae", *map(str, arguments)])
        monkeypatch.setattr(cli, "leave", sys.exit)  # at once would end pytest, for threads that other tests left
        with pytest.raises(SystemExit) as left:
            cli.main()
        printed = capsys.readouterr()
        return int(left.value.code), printed.out, printed.err

    return run


@pytest.fixture(scope="session")
def encode(small_checkpoint):
    """Encodes with the small model, in this process."""

    def run(source: Path | str, store: Path | str, progress=None, max_failures: str = "1%", **options) -> EncodeReport:
        settings = {"model": str(small_checkpoint), "device": "cpu", "num_workers": 0} | options
        tolerance = Tolerance.parse(max_failures)
        request = EncodeRequest(source=str(source), store=str(store), max_failures=tolerance, **settings)
        return encode_dataset(request, progress or Silent())

    return run


@pytest.fixture
def encode_as_ranks(encode, monkeypatch):
    """Encodes as the ranks of one launch would, one after the other in this process; gives their reports.

    Each keeps to its own shards, as ranks do that are equally fast.
    """

    def run(num_ranks: int, *arguments, **options) -> list[EncodeReport]:
        reports = []
        with monkeypatch.context() as environment:
            environment.setattr(
                encode_job, "SharedWork", lambda writer, _, shares, __: PlannedWork(writer, shares.shares[shares.rank])
            )
            for rank in range(num_ranks):
                for name, value in (("WORLD_SIZE", num_ranks), ("RANK", rank), ("LOCAL_RANK", rank)):
                    environment.setenv(name, str(value))
                distributed.launch_id.cache_clear()
                reports.append(encode(*arguments, **options))
        distributed.launch_id.cache_clear()
        return reports

    return run


@pytest.fixture(scope="session")
def forks(tmp_path_factory) -> Iterator[Forks]:
    """The process that has everything imported, whose forks are real processes that start at once."""
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def start_tcae(small_checkpoint, forks):
    """Starts a real process: `tcae encode-dataset` on the CPU with the small model, or a program in the place of tcae.

    It is a fork of one that has imported everything, unless a launcher starts it.
    """
    started: list[subprocess.Popen[str] | Run] = []

    def start(
        source: Path | str,
        store: Path | str,
        *options: str,
        launcher=(),
        program: str = COMMAND,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str] | Run:
        arguments = ["encode-dataset", str(source), str(store)]
        arguments += ["--model", str(small_checkpoint), "--device", "cpu", "--workers", "1", *options]
        variables = os.environ | (environment or {})
        if launcher:
            command = [sys.executable, *launcher, "-m", "tcae_cli", *arguments]
            pipe = subprocess.PIPE
            started.append(subprocess.Popen(command, env=variables, stdout=pipe, stderr=pipe, text=True))
        else:
            started.append(forks.start(arguments, variables, program))
        return started[-1]

    yield start
    for process in started:  # of a test that failed
        process.kill()
        process.communicate()
