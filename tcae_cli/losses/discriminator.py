"""The interface of discriminators, which judge each image by itself: no logit depends on the rest of a batch.

Axes: b images, h w pixels, k logits.
"""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

# A frozen feature network by its name in the recipe, and the channels of each of its maps.
LoadFeatures = Callable[[str], tuple[nn.Module, list[int]]]


class Discriminator(nn.Module):
    """A network that tells originals from reconstructions; `loss.adversarial.discriminator` in a recipe names it."""

    @classmethod
    def build(cls, name: str, load_features: LoadFeatures) -> Self:
        """Return a fresh discriminator with the features it needs loaded; name: the one in the recipe."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [b, k] of images [b, 3, h, w], float32 in [-1, 1]."""
        raise NotImplementedError


@torch.no_grad()
def update_spectral_norms(discriminator: nn.Module) -> None:
    """Update each estimate of a spectral norm by one power iteration, and leave the discriminator in eval mode.

    Called once a step in place of `train()`: in training mode every forward pass is an iteration, and a step would
    depend on the number of parts that its batch is cut into.
    """
    discriminator.train()
    for module in discriminator.modules():
        if is_parametrized(module, "weight"):
            _ = module.weight  # computed on access, with an iteration in training mode
    discriminator.eval()
