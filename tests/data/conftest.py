"""Small pictures and sources to read them from."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import s3fs

from tcae_cli.data.image_file import encode_image
from tcae_cli.data.source import Source
from tcae_cli.errors import ImageError

Pictures = Callable[..., bytes]


def picture(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    """A smooth colour picture, [h, w, 3], uint8, another one for each seed."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin((x * (channel + 1) + y * (seed + 1)) / 20 + seed) for channel in range(3)]
    return ((np.stack(waves, -1) + 1) * 127).astype(np.uint8)


def write_tar(path: Path, members: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items() if isinstance(members, dict) else members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


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
