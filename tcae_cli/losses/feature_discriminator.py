"""A discriminator on features: heads that train, on the maps of a frozen pretrained network.

Axes: b images, h w pixels or positions of a map, n positions of a map, c channels, k logits.
"""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from tcae_cli.losses.discriminator import Discriminator, LoadFeatures

_SLOPE = 0.2  # of LeakyReLU below 0


class FeatureDiscriminator(Discriminator):
    """A head on each map of a frozen feature network, as in RAE (arXiv:2510.11690). Only the heads train and are saved.

    network: maps images [b, 3, h, w] in [-1, 1] to a list of maps [b, c, h, w]; channels: the c of each.
    """

    def __init__(self, network: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        self._frozen = (network,)  # a tuple, so that it does not become a submodule
        self.heads = nn.ModuleList(_Head(width) for width in channels)

    @classmethod
    def build(cls, name: str, load_features: LoadFeatures) -> Self:
        return cls(*load_features(name))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [b, k] of every position of every map of images [b, 3, h, w], float32 in [-1, 1]."""
        maps = self._frozen[0](images)
        return torch.cat([head(found.flatten(2)) for head, found in zip(self.heads, maps, strict=True)], dim=1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The network moves between devices with its heads.
        self._frozen[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)


class _Head(nn.Module):
    """Maps features [b, c, n] to logits [b, n]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = _layer(width, kernel_size=1)
        self.neighbours = _layer(width, kernel_size=9)
        self.to_logit = spectral_norm(nn.Conv1d(width, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        x = self.mix(features)
        x = (x + self.neighbours(x)) * 0.5**0.5
        logits: Tensor = self.to_logit(x)
        return logits.squeeze(1)


def _layer(width: int, kernel_size: int) -> nn.Sequential:
    convolution = nn.Conv1d(width, width, kernel_size, padding=kernel_size // 2, padding_mode="circular")
    # RAE's batch norm over virtual batches of one image is this norm, over an image's positions.
    norm = nn.InstanceNorm1d(width, affine=True)
    return nn.Sequential(spectral_norm(convolution), norm, nn.LeakyReLU(_SLOPE))


DISCRIMINATOR = FeatureDiscriminator
