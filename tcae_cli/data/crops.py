"""Training views: random resized crops and mirrors, drawn from the seed and the sample's number alone.

Sample k of a run is row permutation(epoch)[k mod n] of the source, epoch k // n: the same in every run with that seed,
wherever it was resumed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tcae_cli.data.image_file import decode_image
from tcae_cli.data.loader import start_worker, worker_context
from tcae_cli.data.source import Source
from tcae_cli.errors import ImageError, SourceError
from tcae_cli.recipe.schema import DataSpec


@dataclass(frozen=True)
class TrainingBatch:
    """Views of one step; an image that cannot be read is left out and counted."""

    images: Tensor  # [b, 3, size, size], uint8
    num_failed: int


@dataclass(frozen=True)
class TrainingViews(Dataset[TrainingBatch]):
    """The batches of a run, by step."""

    source: Source
    spec: DataSpec
    size: int  # pixels
    batch_size: int
    seed: int

    def __getitem__(self, step: int) -> TrainingBatch:
        samples = range(step * self.batch_size, (step + 1) * self.batch_size)
        views = [view for sample in samples if (view := self._view(sample)) is not None]
        if not views:
            raise SourceError(f"{self.source.uri}: none of the {self.batch_size} images of step {step} can be read")
        return TrainingBatch(torch.stack(views), self.batch_size - len(views))

    def _view(self, sample: int) -> Tensor | None:
        epoch, position = divmod(sample, len(self.source))
        row = int(_permutation(len(self.source), self.seed, epoch)[position])
        try:
            image = decode_image(self.source.read(row))
        except ImageError:
            return None
        return random_view(image, self.spec, self.size, np.random.default_rng((self.seed, sample)))


def random_view(image: np.ndarray, spec: DataSpec, size: int, random: np.random.Generator) -> Tensor:
    """A view [3, size, size], uint8, of an image [h, w, 3]: short side resized, random crop, random mirror."""
    short_side = int(random.integers(max(size, spec.resize_min), max(size, spec.resize_max), endpoint=True))
    height, width = (max(short_side, round(side * short_side / min(image.shape[:2]))) for side in image.shape[:2])
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]  # channels last in memory: the fast path
    resized = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)[0]
    top, left = random.integers(height - size, endpoint=True), random.integers(width - size, endpoint=True)
    view = resized[:, top : top + size, left : left + size]
    return view.flip(-1) if random.random() < spec.flip else view.contiguous()


def load_training_batches(views: TrainingViews, steps: range, num_workers: int) -> Iterator[TrainingBatch]:
    """The batches of `steps`, in order, made by worker processes (0: in this one)."""
    return iter(
        DataLoader(
            views,
            batch_size=None,
            sampler=steps,
            num_workers=num_workers,
            multiprocessing_context=worker_context() if num_workers else None,
            worker_init_fn=start_worker,
        )
    )


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)
