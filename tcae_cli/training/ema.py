"""Moving averages of weights: the autoencoder's, which is what ships, and the teacher's."""

import copy
from typing import TypeVar

import torch
from torch import nn

from tcae_cli.training.sharding import local

Model = TypeVar("Model", bound=nn.Module)


def averaged_copy(model: Model) -> Model:
    """Return a copy of the model to average into; it needs no gradients."""
    return copy.deepcopy(model).requires_grad_(False).eval()


def warmed_up(decay: float, step: int) -> float:
    """Return the decay, lower in the first steps so that the initial weights are forgotten."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average towards the model, which has the same parameters, sharded in the same way."""
    torch._foreach_lerp_([local(p) for p in average.parameters()], [local(p) for p in model.parameters()], 1 - decay)
