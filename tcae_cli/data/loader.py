"""Rows to batches of pixels, in worker processes; an image that cannot be read costs its row and nothing else."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from multiprocessing.context import BaseContext
from types import TracebackType

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tcae_cli.data.image_file import decode_image
from tcae_cli.data.source import Source
from tcae_cli.data.transform import Resize, View, resize_and_crop
from tcae_cli.errors import ImageError, SourceError


@dataclass(frozen=True)
class ImageBatch:
    """Images of some rows, padded to the batch size; k is the number of rows."""

    rows: list[int]  # of the slots 0 ... k - 1; the slots after them are padding
    images: Tensor  # [batch_size, 3, size, size], uint8; zero where failed or padding
    original_sizes: np.ndarray  # [k, 2], int32: height, width
    crops: np.ndarray  # [k, 4], int32: left, top, right, bottom
    content_hashes: np.ndarray  # [k], uint64: BLAKE2b of the file's bytes; 0 where it could not be read
    failures: dict[int, tuple[str, str]] = field(default_factory=dict)  # row -> stage, error
    decode_s: float = 0.0  # seconds a worker spent on it

    def pin_memory(self) -> "ImageBatch":
        """The batch with its images in pinned memory; the DataLoader looks for this method."""
        return replace(self, images=self.images.pin_memory())


def load_batches(
    source: Source,
    batches: Sequence[Sequence[int]],
    *,
    batch_size: int,
    size: int,
    resize: Resize,
    num_workers: int,
    pin_memory: bool = False,
) -> Generator[ImageBatch, None, None]:
    """The batches asked for, in their order; each is up to batch_size rows of the source.

    num_workers: decoding processes, 0 to decode in this one; they are gone when the iterator ends or is closed.
    Raises SourceError if a worker is killed.
    """
    loader = DataLoader(
        _Batches(source, batch_size, size, resize),
        batch_size=None,
        sampler=batches,
        num_workers=num_workers,
        pin_memory=pin_memory,
        multiprocessing_context=worker_context() if num_workers else None,
        worker_init_fn=start_worker,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error) and "is killed by signal" not in str(error):
            raise
        raise SourceError(f"{source.uri}: a decoding process was killed ({error}); try fewer --workers") from error


def worker_context() -> BaseContext:
    """How workers start: forked from a clean process that has imported this module, never from one that uses a GPU."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def start_worker(_: int) -> None:
    """Settle a new worker: one thread, and Ctrl-C left to the parent, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _say_unless_the_parent_has_left
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    torch.set_num_threads(1)


def _leave_with_the_parent() -> None:
    # A kill -9 of the parent would leave the server that forked this worker, and so this worker, waiting for ever.
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _say_unless_the_parent_has_left(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    # A worker's own errors reach the parent; here arrives what breaks in the thread that hands batches over.
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, traceback)


@dataclass(frozen=True)
class _Batches(Dataset[ImageBatch]):
    """A batch for each sequence of rows."""

    source: Source
    batch_size: int
    size: int  # pixels
    resize: Resize

    def __getitem__(self, rows: Sequence[int]) -> ImageBatch:
        started = time.perf_counter()
        count = len(rows)
        images = torch.zeros(self.batch_size, 3, self.size, self.size, dtype=torch.uint8)
        original_sizes, crops = np.zeros((count, 2), np.int32), np.zeros((count, 4), np.int32)
        content_hashes = np.zeros(count, np.uint64)
        failures: dict[int, tuple[str, str]] = {}
        for slot, row in enumerate(rows):
            try:
                data = self.source.read(row)
                content_hashes[slot] = _content_hash(data)
                view: View = resize_and_crop(decode_image(data), self.size, self.resize)
            except ImageError as error:
                failures[row] = (error.stage, str(error))
                continue
            images[slot], original_sizes[slot], crops[slot] = view
        elapsed_s = time.perf_counter() - started
        return ImageBatch(list(rows), images, original_sizes, crops, content_hashes, failures, elapsed_s)


def _content_hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
