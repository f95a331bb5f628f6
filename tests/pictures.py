"""Small pictures, and tars to put them into."""

import io
import tarfile
from pathlib import Path

import numpy as np


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
