"""Perceptual distance: how far apart two images are in the features of a frozen network.

Axes: b images, h w pixels or positions of a map, c channels.
"""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from tcae_cli.losses.reconstruction import LoadNetwork, Term
from tcae_cli.recipe.schema import PerceptualSpec


class WeightedFeatures(Protocol):
    """A frozen network that returns feature maps."""

    channel_weights: nn.ParameterList | None  # [1, c, 1, 1] for each map

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return maps [b, c, h, w] of images [b, 3, h, w] in [-1, 1]."""


class PerceptualDistance(nn.Module):
    """LPIPS (arXiv:1801.03924) if `network` has learnt channel weights; otherwise unweighted, which is not LPIPS."""

    def __init__(self, network: WeightedFeatures) -> None:
        super().__init__()
        self.network = network

    def forward(self, decoded: Tensor, original: Tensor) -> Tensor:
        """Return the distance of each pair of images, [b], of two batches [b, 3, h, w] in [-1, 1]."""
        weights = self.network.channel_weights
        maps = zip(self.network(decoded), self.network(original), strict=True)
        total = decoded.new_zeros(len(decoded))
        for tap, (a, b) in enumerate(maps):
            squared = (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square()
            if weights is not None:
                squared = squared * weights[tap]
            total = total + squared.sum(dim=1).mean(dim=(1, 2))
        return total


class MeanPerceptualDistance(Term):
    """The mean perceptual distance in the features of the network that the recipe names."""

    def __init__(self, setting: PerceptualSpec, load_network: LoadNetwork) -> None:
        self.weight = setting.weight
        self._distance = PerceptualDistance(load_network(setting.network))

    def __call__(self, decoded: Tensor, original: Tensor) -> Tensor:
        distances: Tensor = self._distance(decoded, original)
        return distances.mean()


TERM = MeanPerceptualDistance
