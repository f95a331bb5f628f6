"""The views of an image that training sees, all drawn from one decoded image, and batches of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tcae_cli.images.image_file import OVERSAMPLING, decode_scaled
from tcae_cli.recipe.schema import Recipe
from tcae_cli.training.views.augmentation import (
    FIRST_GLOBAL,
    LARGEST_ASPECT,
    LOCAL,
    SECOND_GLOBAL,
    clean_view,
    distort,
    random_resized_crop,
)
from tcae_cli.training.views.masks import draw_mask


@dataclass(frozen=True)
class SampleViews:
    """The views of one image; uint8."""

    image: Tensor  # [3, size, size]: the clean view, which is reconstructed
    global_crops: Tensor | None = None  # [2, 3, g, g]; None without self-distillation
    local_crops: Tensor | None = None  # [L, 3, l, l]; None when there are none
    masks: Tensor | None = None  # [2, m, m] bool, m = g // (2 * patch_size): true where the student's token is hidden


@dataclass(frozen=True)
class TrainingBatch:
    """One rank's share of a step, one micro-batch after another; views as in SampleViews."""

    samples: Tensor  # [b], int64: the number of each sample in the run
    images: Tensor  # [b, 3, size, size]
    global_crops: Tensor | None  # [b, 2, 3, g, g]
    local_crops: Tensor | None  # [b, L, 3, l, l]
    masks: Tensor | None  # [b, 2, m, m]
    num_failed: int = 0  # images that could not be read since the previous batch
    first_unit: int | None = None  # of a stream: the first unit that has not been read to its end

    def pin_memory(self) -> "TrainingBatch":
        """Return the batch in pinned memory."""
        return self._with(Tensor.pin_memory)

    def share_memory(self) -> "TrainingBatch":
        """Return the batch in memory that can be handed to another process."""
        return self._with(Tensor.share_memory_)

    def _with(self, moved: Callable[[Tensor], Tensor]) -> "TrainingBatch":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors: dict[str, Any] = {name: moved(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


def decode_for_views(data: bytes, recipe: Recipe) -> np.ndarray:
    """Decode an image file for `sample_views`, [h, w, 3], uint8, a large JPEG at a scale that serves all its views.

    Raises ImageError as `decode_image` does.
    """
    return decode_scaled(data, partial(least_side_of_views, recipe=recipe)).pixels


def least_side_of_views(height: int, width: int, recipe: Recipe) -> int:
    """Return the least short side, in pixels, to decode an image at so that no view has less than twice its pixels.

    Bounds are taken, because nothing is drawn yet: the largest short side of the clean view, and for each kind of crop
    the smallest side that a box can have, whose area is the least share and whose aspect is the most extreme.
    """
    short_side = min(height, width)
    needed: list[float] = [max(recipe.model.image_size, recipe.data.resize_max)]
    if spec := recipe.loss.self_distillation:
        crops = [(spec.global_size, spec.global_scale)]
        if spec.num_local_crops:
            crops.append((spec.local_size, spec.local_scale))
        for size, (least_area, _) in crops:
            box_side = math.sqrt(height * width * least_area / LARGEST_ASPECT)
            needed.append(size * short_side / max(1.0, min(box_side, short_side)))
    return math.ceil(OVERSAMPLING * max(needed))


def sample_views(image: np.ndarray, recipe: Recipe, sample: int) -> SampleViews:
    """Return the views of an image [h, w, 3], uint8, drawn from (train.seed, sample) alone."""
    random = np.random.default_rng((recipe.train.seed, sample))
    clean = clean_view(image, recipe.data, recipe.model.image_size, random)
    spec = recipe.loss.self_distillation
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
    """Return the batch of some samples' views, all made by one recipe."""

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
