"""Small pictures, large photographs, and tars and zips to put them into."""

import gzip
import io
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image

_PHOTOGRAPHS = ("coffee.png", "astronaut.png", "chelsea.png", "rocket.jpg")  # of scikit-image
_TILE = (300, 400)  # height and width of the part of each, in pixels


def picture(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    """A smooth colour picture, [h, w, 3], uint8, another one for each seed."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin((x * (channel + 1) + y * (seed + 1)) / 20 + seed) for channel in range(3)]
    return ((np.stack(waves, -1) + 1) * 127).astype(np.uint8)


def photograph(height: int, width: int, first: int = 0) -> Image.Image:
    """Real photographs side by side, as sharp as they are, as many as it takes; first: the one that they begin with."""
    folder = Path(find_spec("skimage").origin).parent / "data"
    tiles = []
    for name in _PHOTOGRAPHS:
        with Image.open(folder / name) as image:
            tiles.append(np.array(image.convert("RGB"))[: _TILE[0], : _TILE[1]])
    num_rows, num_columns = -(-height // _TILE[0]), -(-width // _TILE[1])
    rows = [np.hstack([tiles[(first + y + x) % len(tiles)] for x in range(num_columns)]) for y in range(num_rows)]
    return Image.fromarray(np.vstack(rows)[:height, :width])


def write_zip(
    path: Path, members: dict[str, bytes] | list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED
) -> Path:
    """Write a zip of named members."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            archive.writestr(name, data)
    return path


def write_tar(path: Path, members: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    """Write a tar, compressed as its name says."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members.items() if isinstance(members, dict) else members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    path.write_bytes(COMPRESSED.get(path.suffix, bytes)(file.getvalue()))
    return path


def zstd(data: bytes) -> bytes:
    """A frame as streams are written, which does not say how long its contents are, in blocks of 16 KiB."""
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        for start in range(0, len(data), 1 << 14):
            stream.write(data[start : start + (1 << 14)])
            stream.flush()
    return sink.getvalue().to_pybytes()


COMPRESSED = {".gz": gzip.compress, ".tgz": gzip.compress, ".zst": zstd}
