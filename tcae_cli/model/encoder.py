"""Pixels to tokens: M blocks on the fine grid, staged compression, N blocks on the coarse grid.

Axes: b batch, h w pixels or grid cells, n tokens, d width.
"""

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from tcae_cli.model.compression import TokenCompression
from tcae_cli.model.layers import LayerNorm, PositionEmbedding, blocks
from tcae_cli.recipe.schema import ModelSpec


class Encoder(nn.Module):
    """The trunk, up to and including the last norm. Source: TC-AE (arXiv:2604.07340), TCAE.md section 2."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width, (fine_depth, coarse_depth) = spec.width, spec.depths
        self.patch_embed = PatchEmbed(None, spec.patch_size, 3, width, flatten=False, output_fmt="NHWC")
        self.positions = PositionEmbedding(spec.fine_grid, width)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        nn.init.trunc_normal_(self.class_token, std=0.02)
        self.fine_blocks = blocks(fine_depth, width, spec.num_heads)
        self.compression = (
            nn.Sequential(TokenCompression(width), PositionEmbedding(spec.coarse_grid, width)) if spec.staged else None
        )
        self.coarse_blocks = blocks(coarse_depth, width, spec.num_heads)
        self.norm = LayerNorm(width)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised class token [b, d] and patch tokens [b, h, w, d] of images [b, 3, H, W] in [-1, 1]."""
        grid = self.positions(self.patch_embed(images))
        class_token = self.class_token.expand(len(images), -1, -1)

        class_token, grid = _through(self.fine_blocks, class_token, grid)
        if self.compression is not None:
            grid = self.compression(grid)  # the class token passes by
        class_token, grid = _through(self.coarse_blocks, class_token, grid)

        return self.norm(class_token[:, 0]), self.norm(grid)


def _through(stack: nn.Module, class_token: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    tokens = stack(torch.cat([class_token, grid.flatten(1, 2)], dim=1))
    return tokens[:, :1], tokens[:, 1:].unflatten(1, grid.shape[1:3])
