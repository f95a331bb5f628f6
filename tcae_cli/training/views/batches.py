"""Batches of a run by index: each rank takes its share of every step's samples from a source.

Sample k of a run is row permutation(epoch)[k mod n] of the source, epoch k // n: the same in every run with that seed,
on any number of ranks, wherever it was resumed.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from torch.utils.data import Dataset

from tcae_cli.errors import ImageError, SourceError
from tcae_cli.images.loader import load_in_workers
from tcae_cli.images.watchdog import RowNotes
from tcae_cli.recipe.schema import Recipe
from tcae_cli.runtime.shared_memory import prepare_for_workers
from tcae_cli.sources.source import Source
from tcae_cli.training.views.crops import SampleViews, TrainingBatch, decode_for_views, sample_views, stack_views

_ATTEMPTS = 20  # at finding an image that can be read


@dataclass(frozen=True)
class TrainingViews(Dataset[TrainingBatch]):
    """One rank's share of the batches of a run, by step.

    A rank takes every world_size-th sample of each of train.accumulate micro-batches, so that all ranks together see
    the same samples in the same micro-batches, however many they are. An image that cannot be read is counted, and
    another takes its place, drawn from the seed and the sample's number alone.
    """

    source: Source
    recipe: Recipe
    rank: int = 0
    world_size: int = 1
    given_up: frozenset[int] = frozenset()  # rows that are not read, because workers were lost on them
    notes: RowNotes | None = None  # of the workers; None in the parent process

    def __getitem__(self, step: int) -> TrainingBatch:
        """Return a step's share; raises SourceError if nothing can take the place of an image."""
        samples = self.samples(step)
        files = iter(self.source.read_many([row for row in self.rows(step) if row not in self.given_up]))
        views, failures = zip(*(self._views(sample, files) for sample in samples), strict=True)
        if self.notes:
            self.notes.rest()
        self.source.release()
        batch = stack_views(samples, views, sum(failures))
        # Shared here and not when sent: if shared memory is full, this raises an error, but sending dies silently.
        return batch.share_memory() if self.notes else batch

    def samples(self, step: int) -> list[int]:
        """Return the numbers in the run of the samples of a step that this rank takes."""
        batch_size = self.recipe.train.batch_size
        size = batch_size // self.recipe.train.accumulate
        start = step * batch_size
        return [
            sample
            for micro_batch in range(start, start + batch_size, size)
            for sample in range(micro_batch + self.rank, micro_batch + size, self.world_size)
        ]

    def rows(self, step: int) -> list[int]:
        """Return the rows of those samples, provided that all of them can be read."""
        return [self._row(sample, attempt=0) for sample in self.samples(step)]

    def _views(self, sample: int, files: Iterator[bytes | ImageError]) -> tuple[SampleViews, int]:
        """Return a sample's views and how many images could not be read for it; the next of `files` is its own."""
        for attempt in range(_ATTEMPTS):
            row = self._row(sample, attempt)
            if row in self.given_up:
                continue
            if self.notes:
                self.notes.begin(row, "read")
            try:
                data = next(files) if attempt == 0 else self.source.read(row)
                if isinstance(data, ImageError):
                    raise data
                if self.notes:
                    self.notes.begin(row, "decode")
                return sample_views(decode_for_views(data, self.recipe), self.recipe, sample), attempt
            except ImageError:
                continue
        raise SourceError(
            f"{self.source.uri}: {_ATTEMPTS} images one after another cannot be read, the last of them "
            f"{self.source.key(row)}; repair such images or remove them from the source"
        )

    def _row(self, sample: int, attempt: int) -> int:
        num_rows = len(self.source)
        seed = self.recipe.train.seed
        if attempt:
            return int(np.random.default_rng((seed, sample, attempt)).integers(num_rows))
        epoch, position = divmod(sample, num_rows)
        return int(epoch_order(num_rows, seed, epoch)[position])


def load_training_batches(views: TrainingViews, steps: range, num_workers: int) -> Generator[TrainingBatch, None, None]:
    """Yield the batches of `steps`, in order, from worker processes (0: from this one), which end with the generator.

    A worker that dies or hangs on an image costs nothing; a row on which this happens twice is given up and counted
    like an image that cannot be read. Raises SourceError if too many images cannot be read, if workers die without
    being on a row, or if shared memory is full.
    """
    if num_workers:
        prepare_for_workers(num_workers)
        yield from load_in_workers(_Steps(views, steps), views.source.uri, num_workers)
    else:
        yield from map(views.__getitem__, steps)


class _Steps:
    """The steps that remain, for one set of workers after another."""

    def __init__(self, views: TrainingViews, steps: range) -> None:
        self._views = views
        self._left = steps
        self._strikes: set[int] = set()  # rows on which workers were lost and that have not arrived since

    def dataset(self, notes: RowNotes) -> "_OrError":
        return _OrError(replace(self._views, notes=notes))

    def __iter__(self) -> Iterator[int]:
        return iter(self._left)

    def out(self, made: TrainingBatch | SourceError) -> TrainingBatch:
        if isinstance(made, SourceError):
            raise made
        self._strikes.difference_update(self._views.rows(self._left[0]))
        self._left = self._left[1:]
        return made

    def strike(self, held: Mapping[int, object]) -> None:
        """Count rows on which workers were lost; give a row up the second time."""
        self._views = replace(self._views, given_up=self._views.given_up | (self._strikes & held.keys()))
        self._strikes |= held.keys()


@dataclass(frozen=True)
class _OrError(Dataset[TrainingBatch | SourceError]):
    """A step's batch or its error as a value; an error raised in a worker would arrive inside a traceback."""

    views: TrainingViews

    def __getitem__(self, step: int) -> TrainingBatch | SourceError:
        try:
            return self.views[step]
        except SourceError as error:
            return error


@lru_cache(maxsize=2)
def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of `count` rows, or tars, in an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(count)
