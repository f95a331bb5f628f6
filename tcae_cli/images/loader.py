"""Loads batches of pixels in worker processes; an image that cannot be read costs its own row only."""

import multiprocessing
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tcae_cli.errors import SourceError
from tcae_cli.images import watchdog
from tcae_cli.images.batch import BatchRows, Decoded, Decoder, Files, ImageBatch, failures_of
from tcae_cli.images.transform import Transform
from tcae_cli.images.watchdog import RowNotes, Stage, WorkersLost, watched
from tcae_cli.reports.failure import Failure
from tcae_cli.runtime.processes import leave_with_the_parent
from tcae_cli.runtime.shared_memory import MORE_SHARED_MEMORY, SharedBlocks, is_full, prepare_for_workers
from tcae_cli.runtime.threads import in_threads
from tcae_cli.sources.source import Source

Made = TypeVar("Made")
Out = TypeVar("Out", covariant=True)

_BATCHES_AHEAD = 3  # that are read for the workers before they ask
_TIMES_LOST_ON_NO_ROW = 3  # running


@dataclass(frozen=True)
class Reading:
    """The settings of reading batches."""

    batch_size: int
    num_workers: int = 0  # decoding processes; 0: this process decodes
    pin_memory: bool = False  # for a GPU


def load_batches(
    source: Source,
    batches: Iterable[BatchRows],
    transform: Transform,
    reading: Reading,
) -> Generator[ImageBatch, None, None]:
    """Yield the batches asked for, in their order; each image is decoded once, and cropped to each of the shapes.

    batches: of up to batch_size rows; taken one by one, a few ahead of those that come out.
    The workers are gone when the iterator ends or is closed. One that dies, or stays on a row for more than
    HUNG_AFTER_S, costs that row, once it has happened twice; the rows beside it are read again. With 0 workers this
    process decodes, and there is no such guard: an image that kills or stops a worker would do so to this process.
    Raises SourceError if workers die without being on a row, or find no shared memory.
    """
    decoder = Decoder(source, reading.batch_size, transform)
    if reading.num_workers:
        loaded = _decode_in_workers(decoder, batches, reading.num_workers)
    else:
        loaded = (decoder.unpack(batch, decoder[batch]) for batch in batches)
    with closing(loaded):
        for batch in loaded:
            yield batch.pin_memory() if reading.pin_memory else batch


def _decode_in_workers(
    decoder: Decoder, batches: Iterable[BatchRows], num_workers: int
) -> Generator[ImageBatch, None, None]:
    """Yield the batches, decoded by workers, which also read the files, unless the source is best read by one process.

    Then a thread here reads ahead of the workers, so that a group of rows is read once, and is in memory once.
    """
    prepare_for_workers(num_workers)
    source = decoder.source
    blocks = SharedBlocks()
    if source.access == "row":
        yield from load_in_workers(_Feed(decoder, batches, blocks), source.uri, num_workers)
        return

    def read(batch: BatchRows) -> BatchRows:
        return batch._replace(files=Files.read(source, batch.asked(), blocks))

    with closing(in_threads(read, batches, _BATCHES_AHEAD, num_threads=1)) as with_files:
        yield from load_in_workers(_Feed(decoder, with_files, blocks), source.uri, num_workers)


def load_rows(
    source: Source, rows: Sequence[int], transform: Transform
) -> tuple[list[Tensor], np.ndarray, dict[int, Failure]]:
    """Read images of any rows in this process: return pixels of each shape, content hashes and failures.

    Pixels are [k, 3, h, w], uint8, zero where failed; hashes [k], uint64; failures by row.
    """
    decoder = Decoder(source, len(rows), transform)
    decoded = decoder.decode(rows, range(len(rows)), len(rows))
    records = decoder.records_of(decoded)
    return decoded.images, records["content_hash"].copy(), failures_of(source, rows, records)


def load_readable(source: Source, rows: Sequence[int], transform: Transform) -> list[Tensor]:
    """Read images of any rows in this process, and return the usable ones at each shape, [k, 3, h, w], uint8."""
    images, _, failures = load_rows(source, rows, transform)
    slots = [slot for slot, row in enumerate(rows) if row not in failures]
    return [of_size[slots] for of_size in images]


def worker_context() -> BaseContext:
    """Return how workers start: forked from a clean process that has imported this module, never one with a GPU."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def start_worker(_: int) -> None:
    """Set up a new worker: one thread, and Ctrl-C left to the parent, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _say_unless_the_parent_has_left
    threading.Thread(target=leave_with_the_parent, daemon=True).start()
    torch.set_num_threads(1)


def _say_unless_the_parent_has_left(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    # A worker's own errors reach the parent; only errors of the thread that sends batches arrive here.
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, traceback)


class Work(Protocol[Made, Out]):
    """The work of one set of workers after another."""

    def dataset(self, notes: RowNotes) -> Dataset[Made]:
        """Return the dataset of a new set of workers, which keep the notes."""

    def __iter__(self) -> Iterator[Any]:
        """Yield the dataset's indices of all items that have not come out, in order."""

    def out(self, made: Made) -> Out:
        """Return the output for the first of those, now that it is made."""

    def strike(self, held: dict[int, tuple[Stage, str]]) -> None:
        """Count the rows that workers were lost on, as WorkersLost names them."""


def load_in_workers(work: Work[Made, Out], uri: str, num_workers: int) -> Generator[Out, None, None]:
    """Yield the output of the work, in order; whenever workers die or hang, new ones resume where they stopped.

    The workers are gone when this ends or is closed. uri: of the source. Raises SourceError if workers are lost three
    times running without being on a row, or find no shared memory.
    """
    lost_on_no_row = 0
    while True:
        notes = RowNotes(num_workers)
        results = watched(_data_loader(work.dataset(notes), work, num_workers), notes)
        try:
            for made in results:
                lost_on_no_row = 0
                yield work.out(made)
            return
        except WorkersLost as lost:
            lost_on_no_row = 0 if lost.held else lost_on_no_row + 1
            if lost_on_no_row == _TIMES_LOST_ON_NO_ROW:
                how = f"{lost}, {lost_on_no_row} times running"
                raise SourceError(f"{uri}: a decoding process was killed ({how}); try fewer --workers") from lost
            work.strike(lost.held)
        except RuntimeError as error:
            if not is_full(error):
                raise
            found = f"{uri}: decoded images do not fit into shared memory (/dev/shm)"
            raise SourceError(f"{found}; {MORE_SHARED_MEMORY}") from error
        finally:
            results.close()


def _data_loader(dataset: Dataset[Made], indices: Iterable[Any], num_workers: int) -> DataLoader[Made]:
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=indices,
        num_workers=num_workers,
        timeout=watchdog.LOOK_EVERY_S,
        multiprocessing_context=worker_context(),
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # of its own: a worker's death must not change random numbers drawn elsewhere
    )


class _Feed:
    """Batches for one set of workers after another: those that a lost set has not delivered go to the next."""

    def __init__(self, decoder: Decoder, batches: Iterable[BatchRows], blocks: SharedBlocks) -> None:
        self._decoder = decoder
        self._coming = iter(batches)
        self._blocks = blocks  # of the batches' files
        self._under_way: deque[BatchRows] = deque()
        self._notes = RowNotes(0)
        self._strikes: dict[int, str] = {}  # row -> the fate of the worker that was on it
        self._given_up: dict[int, Failure] = {}  # by row

    def dataset(self, notes: RowNotes) -> Decoder:
        self._notes = notes
        return replace(self._decoder, notes=notes)

    def __iter__(self) -> Iterator[BatchRows]:
        for batch in list(self._under_way):
            yield self._without_given_up(batch)
        while (coming := self._next()) is not None:
            self._under_way.append(coming)
            yield self._without_given_up(coming)

    def _next(self) -> BatchRows | None:
        with self._notes.waiting_for_the_source():
            return next(self._coming, None)

    def strike(self, held: dict[int, tuple[Stage, str]]) -> None:
        """Count rows that workers were lost on; the second time a row is given up."""
        for row, (stage, fate) in held.items():
            if row not in self._strikes:
                self._strikes[row] = fate
                continue
            first = self._strikes[row]
            fates = f"{fate}, twice" if fate == first else f"{first}, then {fate}"
            key = self._decoder.source.key(row)
            self._given_up[row] = Failure(row, key, stage, f"the decoding process {fates}")

    def out(self, decoded: Decoded) -> ImageBatch:
        """Return the batch that has arrived, which is the first of those under way."""
        rows = self._under_way.popleft()
        if rows.files:
            self._blocks.give_back(rows.files.data)
        batch = self._decoder.unpack(rows, decoded)
        for row in batch.todo if self._strikes else ():
            self._strikes.pop(row, None)
            if row in self._given_up:
                batch.failures[row] = self._given_up[row]
        return batch

    def _without_given_up(self, batch: BatchRows) -> BatchRows:
        if not self._given_up:
            return batch
        return batch._replace(todo=tuple(row for row in batch.asked() if row not in self._given_up))
