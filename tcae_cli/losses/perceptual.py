"""Perceptual distance: how far apart two images are in the features of a frozen network."""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn


class WeightedFeatures(Protocol):
    """A frozen network that gives feature maps."""

    channel_weights: list[Tensor] | None  # a [1, c, 1, 1] a map

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Maps [b, c, h, w] of images [b, 3, h, w] in [-1, 1]."""


class PerceptualDistance(nn.Module):
    """LPIPS (arXiv:1801.03924) where `network` carries learnt channel weights; unweighted, and not LPIPS, otherwise."""

    def __init__(self, network: "WeightedFeatures") -> None:
        super().__init__()
        self.network = network

    def forward(self, decoded: Tensor, original: Tensor) -> Tensor:
        """Distance of each image, [b], of two batches [b, 3, h, w] in [-1, 1]."""
        weights = self.network.channel_weights
        maps = zip(self.network(decoded), self.network(original), strict=True)
        total = decoded.new_zeros(len(decoded))
        for tap, (a, b) in enumerate(maps):
            squared = (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square()
            if weights is not None:
                squared = squared * weights[tap].to(squared.device)
            total = total + squared.sum(dim=1).mean(dim=(1, 2))
        return total
