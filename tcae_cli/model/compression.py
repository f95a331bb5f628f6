"""Staged token compression, the bottleneck that turns tokens into latents, and the exact mirror of each.

Axes: b batch, h w grid rows and columns, d width, c latent channels, r grid cells a latent position has along a side.
"""

import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn


class TokenCompression(nn.Module):
    """Merges 2x2 tokens into one with two convolutions (staged compression); [b, h, w, d] to [b, h/2, w/2, d]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, grid: Tensor) -> Tensor:
        return channels_last(self.conv2(F.gelu(self.conv1(channels_first(grid)))))


class TokenExpansion(nn.Module):
    """Mirror of TokenCompression; [b, h, w, d] to [b, 2h, 2w, d]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1)

    def forward(self, grid: Tensor) -> Tensor:
        return channels_last(self.conv2(F.gelu(self.conv1(channels_first(grid)))))


class TokensToLatents(nn.Module):
    """The bottleneck: r x r tokens become one latent vector; [b, h, w, d] to [b, c, h/r, w/r].

    The hidden layer is four widths in every arm, so that ablations differ in staging alone.
    """

    def __init__(self, width: int, fold: int, latent_channels: int) -> None:
        super().__init__()
        self.fold = fold
        self.mlp = Mlp(fold * fold * width, 4 * width, latent_channels)

    def forward(self, grid: Tensor) -> Tensor:
        folded = F.pixel_unshuffle(channels_first(grid), self.fold)
        return channels_first(self.mlp(channels_last(folded)))


class LatentsToTokens(nn.Module):
    """Mirror of TokensToLatents; [b, c, h, w] to [b, rh, rw, d]."""

    def __init__(self, width: int, fold: int, latent_channels: int) -> None:
        super().__init__()
        self.fold = fold
        self.mlp = Mlp(latent_channels, 4 * width, fold * fold * width)

    def forward(self, latents: Tensor) -> Tensor:
        unfolded = channels_first(self.mlp(channels_last(latents)))
        return channels_last(F.pixel_shuffle(unfolded, self.fold))


def channels_first(grid: Tensor) -> Tensor:
    """View [b, h, w, d] as [b, d, h, w], without a copy."""
    return grid.permute(0, 3, 1, 2)


def channels_last(grid: Tensor) -> Tensor:
    """View [b, d, h, w] as [b, h, w, d], without a copy."""
    return grid.permute(0, 2, 3, 1)
