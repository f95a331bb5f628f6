"""The parent of networks that were trained on images of one mean and deviation.

Axes: b images, h w pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tcae_cli.recipe.choices import Precision


class NormalisedNetwork(nn.Module):
    """A network that brings images to the mean and deviation it was trained with."""

    precision: Precision = "fp32"  # of matrix products and convolutions; features are float32 in any case
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """mean, std: of red, green and blue in [0, 1]."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def normalise(self, images: Tensor) -> Tensor:
        """Return images [b, 3, h, w], float32, of images in [0, 1]."""
        return (images - self.mean) / self.std
