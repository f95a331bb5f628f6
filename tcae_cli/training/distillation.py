"""The self-distillation part of a step: what the student is to match, its losses, and the teacher's own changes.

Axes: b images, q global crops (2), d width, k prototypes.
"""

from collections.abc import Sequence
from typing import NamedTuple

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
from tcae_cli.model.joint import Crops, StudentLogits, TeacherLogits, on_grid
from tcae_cli.recipe.schema import Recipe, SelfDistillationSpec
from tcae_cli.runtime.process_group import mean_over_ranks
from tcae_cli.training.drop_path import draw_keep
from tcae_cli.training.ema import update_average
from tcae_cli.training.schedule import teacher_momentum, teacher_temp
from tcae_cli.training.state import TrainingState
from tcae_cli.training.views.crops import TrainingBatch


class TeacherSums(NamedTuple):
    """What a part of a step leaves behind for the centres and the monitors: means over its images."""

    class_logits: Tensor  # [k]
    patch_logits: Tensor  # [k], over all patch tokens, masked or not
    feature: Tensor  # [d], of unit vectors
    squared_feature: Tensor  # [d]


def crops_of(batch: TrainingBatch, recipe: Recipe, device: torch.device) -> Crops | None:
    """What self-distillation looks at; None where the recipe has none."""
    spec = recipe.loss.self_distillation
    if spec is None:
        return None
    assert batch.global_crops is not None and batch.masks is not None
    local_crops = None if batch.local_crops is None else to_float(batch.local_crops.to(device, non_blocking=True))
    keep = None
    if spec.drop_path:
        num_views, num_blocks = 2 + spec.num_local_crops, sum(recipe.model.depths)
        keep = draw_keep(recipe.train.seed, batch.samples.tolist(), num_views, num_blocks, spec.drop_path).to(device)
    return Crops(
        to_float(batch.global_crops.to(device, non_blocking=True)),
        local_crops,
        batch.masks.to(device, non_blocking=True),
        keep,
    )


def distillation_terms(
    student: StudentLogits, teacher: TeacherLogits, masks: Tensor, state: TrainingState, recipe: Recipe
) -> tuple[dict[str, Tensor], TeacherSums]:
    """The terms `class_token` and `masked_patch`, and `teacher_entropy`, scalars; and what the teacher leaves behind.

    masks: [b, 2, g, g] bool, of the global crops.
    """
    spec, centers = recipe.loss.self_distillation, state.centers
    assert spec is not None and centers is not None
    temp = teacher_temp(spec, state.step, recipe.train.steps)
    side = round(teacher.patches.shape[2] ** 0.5)
    masked = on_grid(masks.flatten(0, 1), side).view(*masks.shape[:2], -1)
    class_targets = teacher_probabilities(teacher.class_tokens, centers.class_token, temp)
    patch_targets = teacher_probabilities(teacher.patches[masked], centers.patch, temp)
    terms = {
        "class_token": class_token_loss(student.class_tokens, class_targets, spec.student_temp),
        "masked_patch": masked_patch_loss(student.masked_patches, patch_targets, masked, spec.student_temp),
        "teacher_entropy": entropy(class_targets),
    }
    features = F.normalize(teacher.features.float(), dim=-1)
    left = TeacherSums(
        teacher.class_tokens.mean(dim=(0, 1), dtype=torch.float32),
        teacher.patches.mean(dim=(0, 1, 2), dtype=torch.float32),  # without a float32 copy of them
        features.mean(dim=(0, 1)),
        features.square().mean(dim=(0, 1)),
    )
    return terms, left


def drop_frozen_gradients(state: TrainingState, spec: SelfDistillationSpec, steps: int) -> None:
    """At first the prototypes stay as they are, so that the features settle on them."""
    if state.model.head is not None and state.step < spec.frozen_last_layer * steps:
        state.model.head.prototypes.grad = None


def follow_student(state: TrainingState, left: Sequence[TeacherSums], recipe: Recipe) -> Tensor:
    """After the student's update: move teacher and centres; the spread of the teacher's features, a scalar.

    left: of each part of the step. The spread is the standard deviation of unit vectors, a mean over their dimensions.
    """
    spec, centers, model = recipe.loss.self_distillation, state.centers, state.model
    assert spec is not None and centers is not None and state.teacher is not None and model.head is not None
    momentum = teacher_momentum(spec, state.step, recipe.train.steps)
    update_average(state.teacher.encoder, model.autoencoder.encoder, momentum)
    update_average(state.teacher.head, model.head, momentum)

    # One message for all four.
    sizes = [value.numel() for value in left[0]]
    together = torch.stack([torch.cat(part) for part in left]).mean(dim=0)
    means = TeacherSums(*mean_over_ranks(together).split(sizes))
    centers.class_token = center_after(centers.class_token, means.class_logits, spec.center_momentum)
    centers.patch = center_after(centers.patch, means.patch_logits, spec.center_momentum)
    return (means.squared_feature - means.feature.square()).clamp(min=0).sqrt().mean()
