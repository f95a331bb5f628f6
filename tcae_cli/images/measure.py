"""Measures images by their headers, which decide the buckets that they go to."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tcae_cli.errors import ImageError
from tcae_cli.images.image_file import image_size
from tcae_cli.images.loader import load_in_workers
from tcae_cli.images.watchdog import RowNotes, Stage
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime.shared_memory import prepare_for_workers
from tcae_cli.sources.index import write_image_sizes
from tcae_cli.sources.source import Source

_ROWS_TOGETHER = 256
_START_BYTES = 2**15  # of a JPEG, in which its header mostly ends
_JPEG = b"\xff\xd8"
_FEW = 2000  # images, which one process measures before others have started


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


def measure_images(source: Source, rows: range, num_workers: int | None, progress: Progress) -> np.ndarray:
    """Return the height and width of each of these images, upright, [k, 2], int32; 0 where it cannot be measured.

    num_workers: processes that measure, by default one a core; 0: this process. A source that is not read by row is
    read by this process, in order. A worker that dies or hangs costs the image it was on, once that has happened twice.
    """
    pieces = [rows[start : start + _ROWS_TOGETHER] for start in range(0, len(rows), _ROWS_TOGETHER)]
    if num_workers is None:
        num_workers = len(os.sched_getaffinity(0))
    if source.access != "row" or len(rows) <= _FEW:
        num_workers = 0
    sizes = np.zeros((len(rows), 2), np.int32)
    progress.start("measure", len(rows))
    for piece, found in zip(pieces, _measured(source, pieces, num_workers), strict=True):
        start = piece.start - rows.start
        sizes[start : start + len(piece)] = found
        progress.advance(len(piece))
    return sizes


def _measured(source: Source, pieces: Sequence[range], num_workers: int) -> Iterator[np.ndarray]:
    """Yield the sizes of the images of each piece, in order."""
    if num_workers:
        prepare_for_workers(num_workers)
        yield from load_in_workers(_Pieces(source, pieces), source.uri, num_workers)
    elif source.access == "row":
        dataset = _Sizes(source, RowNotes(0))
        yield from (dataset[piece].numpy() for piece in pieces)
    else:
        for piece in pieces:
            yield np.array([_size_of(data) for data in source.read_many(piece)], np.int32)


@dataclass(frozen=True)
class _Sizes(Dataset[Tensor]):
    """The heights and widths of the images of some rows, [k, 2], int32."""

    source: Source
    notes: RowNotes

    def __getitem__(self, rows: Sequence[int]) -> Tensor:
        sizes = torch.zeros(len(rows), 2, dtype=torch.int32).share_memory_()
        for place, row in enumerate(rows):
            if row >= 0:  # not given up
                self.notes.begin(row, "read")
                sizes[place] = torch.tensor(_size_of_row(self.source, row), dtype=torch.int32)
        self.notes.rest()
        self.source.release()
        return sizes


class _Pieces:
    """The pieces for one set of workers after another: those that a lost set has not delivered go to the next."""

    def __init__(self, source: Source, pieces: Sequence[range]) -> None:
        self._source = source
        self._left = deque(pieces)
        self._struck: set[int] = set()
        self._given_up: set[int] = set()

    def dataset(self, notes: RowNotes) -> _Sizes:
        return _Sizes(self._source, notes)

    def __iter__(self) -> Iterator[list[int]]:
        for piece in list(self._left):
            yield [-1 if row in self._given_up else row for row in piece]

    def out(self, made: Tensor) -> np.ndarray:
        self._left.popleft()
        return made.numpy()

    def strike(self, held: dict[int, tuple[Stage, str]]) -> None:
        self._given_up |= held.keys() & self._struck
        self._struck |= held.keys()


def _size_of_row(source: Source, row: int) -> tuple[int, int]:
    try:
        start = source.read_start(row, _START_BYTES)
        if len(start) < _START_BYTES:
            return _size_of(start)
        if start.startswith(_JPEG):  # other formats may say further on how they are turned
            try:
                return image_size(start)
            except ImageError:  # its header is longer
                pass
        return _size_of(source.read(row))
    except ImageError:
        return 0, 0


def _size_of(data: bytes | ImageError) -> tuple[int, int]:
    """Return the height and width of an image; 0 if it is none."""
    if isinstance(data, ImageError):
        return 0, 0
    try:
        return image_size(data)
    except ImageError:
        return 0, 0
