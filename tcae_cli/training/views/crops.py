"""Training views: all of one image's from one decode, drawn from the seed and the sample's number alone.

Sample k of a run is row permutation(epoch)[k mod n] of the source, epoch k // n: the same in every run with that seed,
on any number of ranks, wherever it was resumed.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tcae_cli.errors import ImageError, SourceError
from tcae_cli.images.image_file import decode_image
from tcae_cli.images.loader import load_in_workers
from tcae_cli.images.watchdog import RowNotes
from tcae_cli.recipe.schema import Recipe
from tcae_cli.sources.source import Source
from tcae_cli.training.views.augmentation import (
    FIRST_GLOBAL,
    LOCAL,
    SECOND_GLOBAL,
    clean_view,
    distort,
    random_resized_crop,
)
from tcae_cli.training.views.masks import draw_mask

_ATTEMPTS = 20  # at an image that can be read


@dataclass(frozen=True)
class SampleViews:
    """What training sees of one image; uint8."""

    image: Tensor  # [3, size, size]: the clean view, to be reconstructed
    global_crops: Tensor | None = None  # [2, 3, g, g]; None without self-distillation
    local_crops: Tensor | None = None  # [L, 3, l, l]; None when there are none
    masks: Tensor | None = None  # [2, m, m] bool, m = g // (2 * patch_size): true where the student sees no token


@dataclass(frozen=True)
class TrainingBatch:
    """One rank's share of a step, micro-batch after micro-batch; views as in SampleViews."""

    samples: Tensor  # [b], int64: number of each sample in the run
    images: Tensor  # [b, 3, size, size]
    global_crops: Tensor | None  # [b, 2, 3, g, g]
    local_crops: Tensor | None  # [b, L, 3, l, l]
    masks: Tensor | None  # [b, 2, m, m]
    num_failed: int = 0  # images that could not be read, since the batch before
    first_unit: int | None = None  # of a stream: the first unit not yet read to its end

    def pin_memory(self) -> "TrainingBatch":
        """The batch in pinned memory."""
        return self._with(Tensor.pin_memory)

    def share_memory(self) -> "TrainingBatch":
        """The batch in memory that can be handed to another process."""
        return self._with(Tensor.share_memory_)

    def _with(self, moved: Callable[[Tensor], Tensor]) -> "TrainingBatch":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors: dict[str, Any] = {name: moved(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


def sample_views(image: np.ndarray, recipe: Recipe, sample: int) -> SampleViews:
    """Views of an image [h, w, 3], uint8, drawn from (train.seed, sample) alone."""
    random = np.random.default_rng((recipe.train.seed, sample))
    clean, spec = clean_view(image, recipe.data, recipe.model.image_size, random), recipe.loss.self_distillation
    if spec is None:
        return SampleViews(clean)
    global_crops = [
        distort(random_resized_crop(image, spec.global_size, spec.global_scale, random), distortion, random)
        for distortion in (FIRST_GLOBAL, SECOND_GLOBAL)
    ]
    local_crops = [
        distort(random_resized_crop(image, spec.local_size, spec.local_scale, random), LOCAL, random)
        for _ in range(spec.num_local_crops)
    ]
    grid = spec.global_size // (2 * recipe.model.patch_size)
    masks = [draw_mask(grid, spec, random) for _ in global_crops]
    return SampleViews(
        image=clean,
        global_crops=torch.stack(global_crops),
        local_crops=torch.stack(local_crops) if local_crops else None,
        masks=torch.stack(masks),
    )


def stack_views(
    samples: Sequence[int], views: Sequence[SampleViews], num_failed: int, first_unit: int | None = None
) -> TrainingBatch:
    """A batch of some samples' views, all made by one recipe."""

    def stacked(name: str) -> Tensor | None:
        tensors = [getattr(sample, name) for sample in views]
        return None if tensors[0] is None else torch.stack(tensors)

    return TrainingBatch(
        samples=torch.tensor(samples),
        images=torch.stack([sample.image for sample in views]),
        global_crops=stacked("global_crops"),
        local_crops=stacked("local_crops"),
        masks=stacked("masks"),
        num_failed=num_failed,
        first_unit=first_unit,
    )


@dataclass(frozen=True)
class TrainingViews(Dataset[TrainingBatch]):
    """One rank's share of the batches of a run, by step.

    Of each of train.accumulate micro-batches a rank takes every world_size-th sample, so that all ranks together see
    the same samples in the same micro-batches, however many they are. An image that cannot be read is counted, and
    another takes its place, drawn from the seed and the sample's number alone.
    """

    source: Source
    recipe: Recipe
    rank: int = 0
    world_size: int = 1
    given_up: frozenset[int] = frozenset()  # rows not to be read: what read them did not survive it
    notes: RowNotes | None = None  # of the workers; None in the parent

    def __getitem__(self, step: int) -> TrainingBatch:
        """A step's share; raises SourceError if there is nothing to take the place of an image."""
        samples = self.samples(step)
        files = iter(self.source.read_many([row for row in self.rows(step) if row not in self.given_up]))
        views, failures = zip(*(self._views(sample, files) for sample in samples), strict=True)
        if self.notes:
            self.notes.rest()
        self.source.release()
        batch = stack_views(samples, views, sum(failures))
        # Here, not while the batch is sent: where shared memory is full, this raises, and sending dies without a word.
        return batch.share_memory() if self.notes else batch

    def samples(self, step: int) -> list[int]:
        """Numbers in the run of the samples of a step that this rank takes."""
        batch_size, size = self.recipe.train.batch_size, self.recipe.train.batch_size // self.recipe.train.accumulate
        start = step * batch_size
        return [
            sample
            for micro_batch in range(start, start + batch_size, size)
            for sample in range(micro_batch + self.rank, micro_batch + size, self.world_size)
        ]

    def rows(self, step: int) -> list[int]:
        """Rows of those samples, if all of them can be read."""
        return [self._row(sample, attempt=0) for sample in self.samples(step)]

    def _views(self, sample: int, files: Iterator[bytes | ImageError]) -> tuple[SampleViews, int]:
        """Views of a sample, and how many images could not be read for it; files: of the rows, the next one its own."""
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
                return sample_views(decode_image(data), self.recipe, sample), attempt
            except ImageError:
                continue
        raise SourceError(
            f"{self.source.uri}: {_ATTEMPTS} images one after another cannot be read, the last of them "
            f"{self.source.key(row)}; put such images right or leave them out"
        )

    def _row(self, sample: int, attempt: int) -> int:
        num_rows, seed = len(self.source), self.recipe.train.seed
        if attempt:
            return int(np.random.default_rng((seed, sample, attempt)).integers(num_rows))
        epoch, position = divmod(sample, num_rows)
        return int(_permutation(num_rows, seed, epoch)[position])


def load_training_batches(views: TrainingViews, steps: range, num_workers: int) -> Generator[TrainingBatch, None, None]:
    """The batches of `steps`, in order, made by worker processes (0: in this one), which are gone when this ends.

    A worker that dies, or stays on an image for very long, costs nothing; a row that this happens on twice is given up
    and counted like an image that cannot be read. Raises SourceError if too many images cannot be read, if workers die
    without being on a row, or find no shared memory.
    """
    if num_workers:
        yield from load_in_workers(_Steps(views, steps), views.source.uri, num_workers)
    else:
        yield from map(views.__getitem__, steps)


class _Steps:
    """Steps for one set of workers after another."""

    def __init__(self, views: TrainingViews, steps: range) -> None:
        self._views, self._left = views, steps
        self._strikes: set[int] = set()  # rows that workers were lost on and that have not come since

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
        """Count rows that workers were lost on; the second time a row is given up."""
        self._views = replace(self._views, given_up=self._views.given_up | (self._strikes & held.keys()))
        self._strikes |= held.keys()


@dataclass(frozen=True)
class _OrError(Dataset[TrainingBatch | SourceError]):
    """What a worker makes of a step; an error raised in a worker would arrive inside a traceback."""

    views: TrainingViews

    def __getitem__(self, step: int) -> TrainingBatch | SourceError:
        try:
            return self.views[step]
        except SourceError as error:
            return error


@lru_cache(maxsize=2)
def _permutation(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_rows)
