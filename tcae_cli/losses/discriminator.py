"""Discriminators: heads on a frozen network's features, or a PatchGAN for those without pretrained weights.

Nothing in them looks across images: a logit is its own image's alone.
Axes: b images, h w positions, n positions of a map, c channels, k logits.
"""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

_SLOPE = 0.2  # of LeakyReLU below 0


class FeatureDiscriminator(nn.Module):
    """A head on each map of a frozen feature network (RAE; TRAINING.md 2.2). Only the heads train and are saved.

    network: images [b, 3, h, w] in [-1, 1] to a list of maps [b, c, h, w]; channels: the c of each.
    """

    def __init__(self, network: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        self._frozen = (network,)  # in a tuple, it is not a part of this module
        self.heads = nn.ModuleList(_Head(width) for width in channels)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [b, k], of every map's every position, of images [b, 3, h, w], float32 in [-1, 1]."""
        maps = self._frozen[0](images)
        return torch.cat([head(found.flatten(2)) for head, found in zip(self.heads, maps, strict=True)], dim=1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The network moves between devices with its heads.
        self._frozen[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)


class _Head(nn.Module):
    """Features [b, c, n] to logits [b, n]."""

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


class PatchGan(nn.Module):
    """Convolutions that judge patches of 70 x 70 pixels (arXiv:1611.07004), with spectral norm (arXiv:1802.05957).

    Instance norm stands for the usual batch norm.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, 64, stride=2), nn.LeakyReLU(_SLOPE)]
        for width, stride in ((64, 2), (128, 2), (256, 1)):
            norm = nn.InstanceNorm2d(2 * width, affine=True)
            layers += [_convolution(width, 2 * width, stride), norm, nn.LeakyReLU(_SLOPE)]
        self.layers = nn.Sequential(*layers, _convolution(512, 1, stride=1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [b, k], of every patch, of images [b, 3, h, w], float32 in [-1, 1]; sides of at least 24 pixels."""
        logits: Tensor = self.layers(images)
        return logits.flatten(1)


def _convolution(width_in: int, width_out: int, stride: int) -> nn.Module:
    return spectral_norm(nn.Conv2d(width_in, width_out, 4, stride, padding=1))


@torch.no_grad()
def update_spectral_norms(discriminator: nn.Module) -> None:
    """Estimate the spectral norms anew, by one power iteration each; the discriminator is in eval mode afterwards.

    Called once a step in place of `train()`: there every forward pass is an iteration, and a step would depend on how
    many parts its batch is cut in.
    """
    discriminator.train()
    for module in discriminator.modules():
        if is_parametrized(module, "weight"):
            _ = module.weight  # computed on access, with an iteration in training mode
    discriminator.eval()
