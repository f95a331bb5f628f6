"""Pictures for people to look at: originals above their reconstructions, in a PNG file.

Axes: b batch, h w pixels.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from tcae_cli.images.image_file import draw_grid, encode_image
from tcae_cli.runtime.files import make_folder, write_atomic

_COLUMNS = 8

Pictures = Sequence[np.ndarray] | np.ndarray  # each [h, w, 3], uint8


def write_pairs(path: Path, originals: Pictures, decoded: Pictures, *, replace: bool = False) -> Path:
    """Write a PNG file with lines of up to eight originals, each above its reconstruction, and return its path.

    Where a file exists already, path-2, path-3 and so on are tried, unless `replace` is set. Raises DiskError if the
    file cannot be written.
    """
    lines = []
    for start in range(0, len(originals), _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        lines += [list(originals[columns]), list(decoded[columns])]
    target = path
    number = 2
    while target.exists() and not replace:
        target = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    make_folder(target.parent)
    write_atomic(target, encode_image(draw_grid(lines), "png"))
    return target


def to_pixels(images: Tensor) -> np.ndarray:
    """Return images [b, h, w, 3], uint8, on the host, of images [b, 3, h, w], uint8, on any device."""
    pixels: np.ndarray = images.permute(0, 2, 3, 1).cpu().numpy()
    return pixels
