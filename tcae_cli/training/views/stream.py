"""Batches of a run from images that are read together and in order: shuffled in a buffer, resumed by the file.

A file here is a tar, or a row group of a table, and a unit is one pass over one file. Units are numbered without end,
and those of an epoch come in an order drawn from the seed. Consumers, which are all workers of all ranks, take units in
turn. Where there are fewer files than consumers, a unit is cut into portions, each with every k-th image of its file,
and consumers take portions in turn.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tcae_cli.errors import ImageError, SourceError, TcaeError
from tcae_cli.images.loader import start_worker, worker_context
from tcae_cli.recipe.schema import Recipe
from tcae_cli.runtime.shared_memory import MORE_SHARED_MEMORY, is_full, prepare_for_workers
from tcae_cli.training.views.batches import epoch_order
from tcae_cli.training.views.crops import SampleViews, TrainingBatch, decode_for_views, sample_views, stack_views

DEFAULT_BUFFER = 1000  # images, if data.shuffle_buffer is not given: what streams cannot be shuffled by index

_IMAGES_OF_A_UNIT = 1 << 32  # more than any file holds, so that the numbers of images never collide


class StreamedFiles(Protocol):
    """The files that images are read from, each front to back."""

    @property
    def uri(self) -> str:
        """The source, as the user named it."""

    @property
    def words(self) -> str:
        """The files in messages: "tars"."""

    def __len__(self) -> int: ...

    def images(self, number: int, portion: int, num_portions: int) -> Iterator[tuple[int, bytes | None]]:
        """Yield every num_portions-th image of a file, starting at image `portion`, with its place among the images.

        The image is None if it, or all that follows damage, cannot be read.
        Raises SourceError if the file cannot be opened or read to its end.
        """


@dataclass(frozen=True)
class TrainingStream:
    """One rank's share of the images that stream by."""

    files: StreamedFiles
    recipe: Recipe
    rank: int = 0
    world_size: int = 1


def stream_training_batches(
    stream: TrainingStream, num_workers: int, first_unit: int = 0
) -> Generator[TrainingBatch, None, None]:
    """Yield batches without end, train.batch_size // world_size images each; every image comes once an epoch.

    Each worker draws from a buffer of data.shuffle_buffer images (1,000 by default), which empties as its epoch ends. A
    batch reports as its first_unit the lowest unit of which this rank has not yet given every image.
    first_unit: the least that the ranks' last batches reported, whatever the number of ranks and workers was then.
    Units before it are skipped; of those after it, only what was in progress is repeated.
    An image that cannot be read is skipped and counted. The rest of a damaged tar counts as one image in each pass.
    num_workers: processes, which end with the generator. With 0 this process reads.
    Raises SourceError if a file can no longer be opened or read, if a whole epoch has no readable image, or if a worker
    dies.
    """
    plan = _Plan(stream, max(num_workers, 1), first_unit)
    unread = [first_unit] * plan.num_workers
    loaded = _load_in_workers(plan) if num_workers else plan.__iter__()
    try:
        for worker, batch in loaded:
            if isinstance(batch, TcaeError):
                raise batch
            assert batch.first_unit is not None
            unread[worker] = batch.first_unit
            yield replace(batch, first_unit=min(unread))
    finally:
        loaded.close()


class _Made(NamedTuple):
    """A batch or an error from a worker."""

    worker: int
    batch: TrainingBatch | TcaeError  # an error raised in a worker would arrive inside a traceback


class _Encoded(NamedTuple):
    """An image that has been read and not yet decoded."""

    unit: int
    sample: int  # the image's number in the run
    data: bytes


@dataclass(frozen=True)
class _Plan(IterableDataset[_Made]):
    """Which consumer reads which images of which files."""

    stream: TrainingStream
    num_workers: int  # of each rank; 1 if the rank reads by itself
    first_unit: int

    @property
    def num_consumers(self) -> int:
        """The number of workers of all ranks."""
        return self.stream.world_size * self.num_workers

    @property
    def num_portions(self) -> int:
        """The portions of a unit, so that an epoch has at least one for each consumer."""
        return -(-self.num_consumers // len(self.stream.files))

    def __iter__(self) -> Generator[_Made, None, None]:
        info = get_worker_info()
        worker = info.id if info else 0
        try:
            for batch in _Consumer(self, self.stream.rank * self.num_workers + worker).batches():
                # Shared here and not when sent: if shared memory is full, this raises, but sending dies silently.
                yield _Made(worker, batch.share_memory() if info else batch)
        except TcaeError as error:
            yield _Made(worker, error)

    def epochs(self, consumer: int) -> Iterator[range]:
        """Yield for each epoch the numbers of the portions, counted over all units, that a consumer reads."""
        num_portions = len(self.stream.files) * self.num_portions
        for epoch in count(self.first_unit // len(self.stream.files)):
            start = max(epoch * num_portions, self.first_unit * self.num_portions)
            yield range(start + (consumer - start) % self.num_consumers, (epoch + 1) * num_portions, self.num_consumers)

    def share(self, number: int) -> tuple[int, int]:
        """Return the file of a portion, and which of the file's images it has."""
        unit, portion = divmod(number, self.num_portions)
        epoch, position = divmod(unit, len(self.stream.files))
        file = int(epoch_order(len(self.stream.files), self.stream.recipe.train.seed, epoch)[position])
        # Portions move on with each epoch: otherwise a consumer could see the same images for ever, or none.
        return file, (portion + epoch) % self.num_portions

    def images(self, number: int) -> Iterator[tuple[int, bytes | None]]:
        """Yield a portion's images with their places in the file; None if one, or the rest of a tar, is unreadable."""
        file, portion = self.share(number)
        return self.stream.files.images(file, portion, self.num_portions)


class _Consumer:
    """A worker that reads its portions, shuffles their images in a buffer, and makes batches of their views."""

    def __init__(self, plan: _Plan, number: int) -> None:
        self._plan = plan
        self._number = number
        self._recipe = plan.stream.recipe
        self._random = np.random.default_rng((self._recipe.train.seed, number, plan.first_unit))
        self._buffer_size = self._recipe.data.shuffle_buffer or DEFAULT_BUFFER
        self._buffer: list[_Encoded] = []
        self._reading = plan.first_unit
        self._num_failed = 0

    def batches(self) -> Iterator[TrainingBatch]:
        views = self._views()
        size = self._recipe.train.batch_size // self._plan.stream.world_size
        while True:
            samples, made = zip(*islice(views, size), strict=True)
            first_unit = min([self._reading, *(image.unit for image in self._buffer)])
            batch = stack_views(samples, made, self._num_failed, first_unit)
            self._num_failed = 0
            yield batch

    def _views(self) -> Iterator[tuple[int, SampleViews]]:
        plan = self._plan
        barren = set[tuple[int, int]]()  # shares that have been read without one image since the last image
        for portions in plan.epochs(self._number):
            barren.update(map(plan.share, portions))
            for encoded in self._shuffled(portions):
                try:
                    image = decode_for_views(encoded.data, self._recipe)
                except ImageError:
                    self._num_failed += 1
                    continue
                barren.clear()
                yield encoded.sample, sample_views(image, self._recipe, encoded.sample)
            if len(barren) == len(plan.stream.files) * plan.num_portions:
                raise SourceError(
                    f"{plan.stream.files.uri}: there is no image that can be read in any of "
                    f"{len(plan.stream.files)} {plan.stream.files.words}"
                )

    def _shuffled(self, portions: range) -> Iterator[_Encoded]:
        """Yield the images of portions in the buffer's order, and count those that cannot be read."""
        for number in portions:
            unit = number // self._plan.num_portions
            self._reading = unit
            for index, data in self._plan.images(number):
                if data is None:
                    self._num_failed += 1
                    continue
                self._buffer.append(_Encoded(unit, unit * _IMAGES_OF_A_UNIT + index, data))
                if len(self._buffer) == self._buffer_size:
                    yield self._draw()
            self._reading = (number + self._plan.num_consumers) // self._plan.num_portions
        while self._buffer:
            yield self._draw()

    def _draw(self) -> _Encoded:
        slot = int(self._random.integers(len(self._buffer)))
        self._buffer[slot], self._buffer[-1] = self._buffer[-1], self._buffer[slot]
        return self._buffer.pop()


def _load_in_workers(plan: _Plan) -> Generator[_Made, None, None]:
    prepare_for_workers(plan.num_workers)
    iterator: Any = None
    try:
        iterator = iter(
            DataLoader(
                plan,
                batch_size=None,
                num_workers=plan.num_workers,
                multiprocessing_context=worker_context(),
                worker_init_fn=start_worker,
                generator=torch.Generator(),  # its own, so that starting workers leaves other draws alone
            )
        )
        yield from iterator
    except (RuntimeError, OSError, EOFError) as error:
        if is_full(error):
            raise SourceError(
                f"{plan.stream.files.uri}: images do not fit into shared memory (/dev/shm); {MORE_SHARED_MEMORY}"
            ) from error
        if str(error).startswith("Caught "):  # raised in a worker that is still alive
            raise
        how = str(error).partition("\n")[0] or type(error).__name__
        fix = "continue with --resume, and fewer --workers if memory is short"
        raise SourceError(f"{plan.stream.files.uri}: a process that reads it was lost ({how}); {fix}") from error
    finally:
        if iterator is not None:
            iterator._shutdown_workers()
