"""Tars read front to back for training: no index, shuffled in a buffer, resumed by shard.

A unit is one pass over one shard; units are numbered on for ever, and those of an epoch come in an order drawn from the
seed. Consumers, which are all workers of all ranks, take units in turn; where there are fewer shards than consumers a
unit has parts, every k-th image of its shard, and consumers take parts in turn.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tcae_cli.errors import ImageError, SourceError, TcaeError
from tcae_cli.images.image_file import decode_image
from tcae_cli.images.loader import _SHARED_MEMORY_FILE, start_worker, worker_context
from tcae_cli.recipe.schema import Recipe
from tcae_cli.sources.index import image_suffixes
from tcae_cli.training.views.crops import SampleViews, TrainingBatch, sample_views, stack_views
from tcae_cli.training.views.tar_stream import expand_tars, read_images

_PIPE_BUFFER = 1000  # images, where data.shuffle_buffer is not given: a pipe cannot be read by index
_IMAGES_OF_A_UNIT = 1 << 32  # more than any tar holds: numbers of images stay apart


def stream_training_batches(
    uri: str, recipe: Recipe, rank: int, world_size: int, num_workers: int, first_unit: int = 0
) -> Generator[TrainingBatch, None, None]:
    """Batches of one rank without end, train.batch_size // world_size images each; every image once an epoch.

    uri: one tar or a brace pattern of tars, local or remote, or of commands, "pipe:cat {00..12}.tar". Each worker draws
    from a buffer of data.shuffle_buffer images (by default 1,000 for a pipe), which empties as its epoch ends.
    first_unit: the least that the ranks' last batch told, at any number of ranks and workers then: what is before it is
    skipped, and of what is not, only what was under way is repeated. A batch tells the lowest unit of which this rank
    has not yet given every image.
    An image that cannot be read is skipped and counted; so is, once a pass, what follows the damage of a tar.
    num_workers: processes; they are gone when this ends or is closed. With 0 this process reads.
    Raises UsageError or NotFoundError for a pattern that cannot work, SourceError if this is no tar, if one cannot be
    opened or read any more, if there is nothing in a whole epoch, or if a worker dies.
    """
    plan = _Plan(uri, expand_tars(uri), recipe, rank, world_size, max(num_workers, 1), first_unit)
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
    """What comes from a worker."""

    worker: int
    batch: TrainingBatch | TcaeError  # an error raised there would arrive inside a traceback


class _Encoded(NamedTuple):
    """An image on its way."""

    unit: int
    sample: int  # its number in the run
    data: bytes


@dataclass(frozen=True)
class _Plan(IterableDataset[_Made]):
    """Who reads what."""

    uri: str
    tars: tuple[str, ...]  # paths, URLs or pipes
    recipe: Recipe
    rank: int
    world_size: int
    num_workers: int  # of each rank; 1 if it reads by itself
    first_unit: int

    @property
    def num_consumers(self) -> int:
        return self.world_size * self.num_workers

    @property
    def num_parts(self) -> int:
        """Of a unit, so that an epoch has at least one for each consumer."""
        return -(-self.num_consumers // len(self.tars))

    def __iter__(self) -> Generator[_Made, None, None]:
        info = get_worker_info()
        worker = info.id if info else 0
        try:
            for batch in _Consumer(self, self.rank * self.num_workers + worker).batches():
                # Here, not while it is sent: where shared memory is full this raises, and sending dies without a word.
                yield _Made(worker, batch.share_memory() if info else batch)
        except TcaeError as error:
            yield _Made(worker, error)

    def epochs(self, consumer: int) -> Iterator[range]:
        """For each epoch the numbers of the parts, counted over all units, that a consumer reads."""
        num_parts = len(self.tars) * self.num_parts
        for epoch in count(self.first_unit // len(self.tars)):
            start = max(epoch * num_parts, self.first_unit * self.num_parts)
            yield range(start + (consumer - start) % self.num_consumers, (epoch + 1) * num_parts, self.num_consumers)

    def share(self, number: int) -> tuple[int, int]:
        """Shard of a part, and which of its images."""
        unit, part = divmod(number, self.num_parts)
        epoch, position = divmod(unit, len(self.tars))
        shard = int(_order(len(self.tars), self.recipe.train.seed, epoch)[position])
        # Others of a shard's images each epoch, or a consumer could see the same ones for ever, or none.
        return shard, (part + epoch) % self.num_parts

    def images(self, number: int) -> Iterator[tuple[int, bytes | None]]:
        """Images of a part by their place in the shard; None: one, or the rest of the tar, cannot be read."""
        shard, part = self.share(number)
        return read_images(self.tars[shard], part, self.num_parts)


class _Consumer:
    """One worker's way through its parts."""

    def __init__(self, plan: _Plan, number: int) -> None:
        self._plan, self._number = plan, number
        self._random = np.random.default_rng((plan.recipe.train.seed, number, plan.first_unit))
        self._buffer_size = plan.recipe.data.shuffle_buffer or _PIPE_BUFFER
        self._buffer: list[_Encoded] = []
        self._reading = plan.first_unit
        self._num_failed = 0

    def batches(self) -> Iterator[TrainingBatch]:
        views, size = self._views(), self._plan.recipe.train.batch_size // self._plan.world_size
        while True:
            samples, made = zip(*islice(views, size), strict=True)
            num_failed, self._num_failed = self._num_failed, 0
            yield stack_views(samples, made, num_failed, min([self._reading, *(image.unit for image in self._buffer)]))

    def _views(self) -> Iterator[tuple[int, SampleViews]]:
        plan, barren = self._plan, set[tuple[int, int]]()  # shares that gave nothing, since the last image
        for parts in plan.epochs(self._number):
            barren.update(map(plan.share, parts))
            for encoded in self._shuffled(parts):
                try:
                    image = decode_image(encoded.data)
                except ImageError:
                    self._num_failed += 1
                    continue
                barren.clear()
                yield encoded.sample, sample_views(image, plan.recipe, encoded.sample)
            if len(barren) == len(plan.tars) * plan.num_parts:
                raise SourceError(
                    f"{plan.uri}: there is no image that can be read in any of {len(plan.tars)} tars; "
                    f"images are members ending in {image_suffixes()}"
                )

    def _shuffled(self, parts: range) -> Iterator[_Encoded]:
        for encoded in self._read(parts):
            self._buffer.append(encoded)
            if len(self._buffer) == self._buffer_size:
                yield self._draw()
        while self._buffer:
            yield self._draw()

    def _draw(self) -> _Encoded:
        slot = int(self._random.integers(len(self._buffer)))
        self._buffer[slot], self._buffer[-1] = self._buffer[-1], self._buffer[slot]
        return self._buffer.pop()

    def _read(self, parts: range) -> Iterator[_Encoded]:
        for number in parts:
            self._reading = unit = number // self._plan.num_parts
            for index, data in self._plan.images(number):
                if data is None:
                    self._num_failed += 1
                else:
                    yield _Encoded(unit, unit * _IMAGES_OF_A_UNIT + index, data)
            self._reading = (number + self._plan.num_consumers) // self._plan.num_parts


@lru_cache(maxsize=2)
def _order(num_shards: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_shards)


def _load_in_workers(plan: _Plan) -> Generator[_Made, None, None]:
    iterator: Any = None
    try:
        iterator = iter(
            DataLoader(
                plan,
                batch_size=None,
                num_workers=plan.num_workers,
                multiprocessing_context=worker_context(),
                worker_init_fn=start_worker,
                generator=torch.Generator(),  # of its own: starting must not change what is drawn elsewhere
            )
        )
        yield from iterator
    except (RuntimeError, OSError, EOFError) as error:
        if _SHARED_MEMORY_FILE in str(error):
            fix = "try fewer --workers or a smaller batch"
            raise SourceError(f"{plan.uri}: images do not fit into shared memory (/dev/shm); {fix}") from error
        if str(error).startswith("Caught "):  # raised in a worker that lives
            raise
        how = str(error).partition("\n")[0] or type(error).__name__
        fix = "continue with --resume, and fewer --workers if memory is short"
        raise SourceError(f"{plan.uri}: a process that reads it was lost ({how}); {fix}") from error
    finally:
        if iterator is not None:
            iterator._shutdown_workers()
