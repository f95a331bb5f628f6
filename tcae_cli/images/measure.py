"""Measures images by their headers, which decide the buckets that they go to."""

from collections.abc import Sequence

import numpy as np

from tcae_cli.errors import ImageError
from tcae_cli.images.image_file import image_size
from tcae_cli.reports.progress import Progress
from tcae_cli.sources.index import write_image_sizes
from tcae_cli.sources.source import Source

_ROWS_TOGETHER = 256


def add_image_sizes(source: Source, previous: Source | None, num_workers: int | None, progress: Progress) -> None:
    """Add the size of every image to the index of a source; open it again to read them.

    A row that a previous index has keeps its size for ever, since it decides the row's place in a store. 0 stands for
    an image that cannot be measured.
    """
    known = np.empty((0, 2), np.int32)
    if previous is not None and previous.image_sizes is not None:
        known = previous.image_sizes[: len(source)]
    new = range(len(known), len(source))
    write_image_sizes(source.index_dir, np.concatenate([known, measure_images(source, new, num_workers, progress)]))


def measure_images(source: Source, rows: Sequence[int], num_workers: int | None, progress: Progress) -> np.ndarray:
    """Return the height and width of each of these images, upright, [k, 2], int32; 0 where it cannot be measured."""
    sizes = np.zeros((len(rows), 2), np.int32)
    progress.start("measure", len(rows))
    for start in range(0, len(rows), _ROWS_TOGETHER):
        together = rows[start : start + _ROWS_TOGETHER]
        for place, data in enumerate(source.read_many(together), start):
            if not isinstance(data, ImageError):
                sizes[place] = _size_or_unknown(data)
        progress.advance(len(together))
    return sizes


def _size_or_unknown(data: bytes) -> tuple[int, int]:
    try:
        return image_size(data)
    except ImageError:
        return 0, 0
