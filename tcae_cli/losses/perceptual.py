"""Perceptual distance: how far apart two images are in the features of a frozen network."""

import torch.nn.functional as F
from torch import Tensor, nn


class PerceptualDistance(nn.Module):
    """LPIPS (arXiv:1801.03924) where `network` carries learnt channel weights; unweighted otherwise, and then not LPIPS.

    `network` maps images [b, 3, h, w] in [-1, 1] to a list of feature maps and has `channel_weights`, a list or None.
    """

    def __init__(self, network: nn.Module) -> None:
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
