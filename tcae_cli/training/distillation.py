"""The self-distillation part of a step: its crops, the student's losses, and the updates of teacher and centres.

Axes: b images, q global crops (2), v views, d width, k prototypes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tcae_cli.images.transform import to_float
from tcae_cli.losses.self_distillation import (
    center_after,
    class_token_loss,
    entropy,
    masked_patch_loss,
    teacher_probabilities,
)
from tcae_cli.model.joint import Crops, StudentLogits, TeacherLogits, on_last_grid, places_of_masked
from tcae_cli.recipe.schema import Recipe
from tcae_cli.runtime.device import to_device
from tcae_cli.runtime.process_group import mean_over_ranks
from tcae_cli.training.ema import update_average
from tcae_cli.training.schedule import teacher_momentum, teacher_temp
from tcae_cli.training.state import TrainingState
from tcae_cli.training.views.crops import TrainingBatch

_STREAM = 7  # keeps drop path's draws apart from others of the same sample


class TeacherSums(NamedTuple):
    """Means over the images of one micro-batch, which update the centres and the monitors after the step."""

    class_logits: Tensor  # [k]
    patch_logits: Tensor  # [k], over all patch tokens, masked or not
    feature: Tensor  # [d], of unit vectors
    squared_feature: Tensor  # [d]


def crops_of(batch: TrainingBatch, recipe: Recipe, device: torch.device) -> Crops | None:
    """Return the crops of a batch in [-1, 1] with their masks and drop path's draws; None without self-distillation."""
    spec = recipe.loss.self_distillation
    if spec is None:
        return None
    assert batch.global_crops is not None and batch.masks is not None
    local_crops = None if batch.local_crops is None else to_float(to_device(batch.local_crops, device))
    keep = None
    if spec.drop_path:
        num_views = 2 + spec.num_local_crops
        num_blocks = sum(recipe.model.depths)
        keep = draw_keep(recipe.train.seed, batch.samples.tolist(), num_views, num_blocks, spec.drop_path)
        keep = to_device(keep, device)
    masked = places_of_masked(batch.masks, staged=recipe.model.staged)
    return Crops(
        to_float(to_device(batch.global_crops, device)),
        local_crops,
        to_device(batch.masks, device),
        to_device(masked, device),
        keep,
    )


def draw_keep(seed: int, samples: Sequence[int], num_views: int, num_blocks: int, rate: float) -> Tensor:
    """Return drop path's factors [b, v, blocks, 2], float32, of the blocks' two branches: 0, or 1 / (1 - its rate).

    Drawn from the seed and the sample's number alone. rate: the chance that a branch of the last block is dropped; it
    falls linearly to 0 in the first block (arXiv:1603.09382).
    """
    rates = np.linspace(0.0, rate, num_blocks)[None, :, None]
    shape = num_views, num_blocks, 2
    draws = [np.random.default_rng((seed, _STREAM, sample)).random(shape) for sample in samples]
    return torch.from_numpy(((np.stack(draws) >= rates) / (1 - rates)).astype(np.float32))


def distillation_terms(
    student: StudentLogits, teacher: TeacherLogits, crops: Crops, state: TrainingState, recipe: Recipe
) -> tuple[dict[str, Tensor], TeacherSums]:
    """Return the terms `class_token` and `masked_patch` and the monitor `teacher_entropy`, scalars; and the sums."""
    spec = recipe.loss.self_distillation
    centers = state.centers
    assert spec is not None and centers is not None
    temp = teacher_temp(spec, state.step, recipe.train.steps)
    masks = on_last_grid(crops.masks, staged=recipe.model.staged)
    class_targets = teacher_probabilities(teacher.class_tokens, centers.class_token, temp)
    patch_targets = teacher_probabilities(teacher.patches.flatten(0, 2)[crops.masked], centers.patch, temp)
    terms = {
        "class_token": class_token_loss(student.class_tokens, class_targets, spec.student_temp),
        "masked_patch": masked_patch_loss(
            student.masked_patches, patch_targets, masks, crops.masked, spec.student_temp
        ),
        "teacher_entropy": entropy(class_targets),
    }
    features = F.normalize(teacher.features.float(), dim=-1)
    sums = TeacherSums(
        teacher.class_tokens.mean(dim=(0, 1), dtype=torch.float32),
        teacher.patches.mean(dim=(0, 1, 2), dtype=torch.float32),  # without a float32 copy of them
        features.mean(dim=(0, 1)),
        features.square().mean(dim=(0, 1)),
    )
    return terms, sums


def follow_student(state: TrainingState, parts: Sequence[TeacherSums], recipe: Recipe) -> Tensor:
    """Update teacher and centres after the student; return the spread of the teacher's features, a scalar.

    parts: the sums of each micro-batch. The spread is the standard deviation of unit vectors, averaged over dimensions.
    """
    spec = recipe.loss.self_distillation
    centers, model = state.centers, state.model
    assert spec is not None and centers is not None and state.teacher is not None and model.head is not None
    momentum = teacher_momentum(spec, state.step, recipe.train.steps)
    update_average(state.teacher.encoder, model.autoencoder.encoder, momentum)
    update_average(state.teacher.head, model.head, momentum)

    # One message between ranks carries all four means.
    sizes = [value.numel() for value in parts[0]]
    together = torch.stack([torch.cat(part) for part in parts]).mean(dim=0)
    means = TeacherSums(*mean_over_ranks(together).split(sizes))
    centers.class_token = center_after(centers.class_token, means.class_logits, spec.center_momentum)
    centers.patch = center_after(centers.patch, means.patch_logits, spec.center_momentum)
    return (means.squared_feature - means.feature.square()).clamp(min=0).sqrt().mean()
