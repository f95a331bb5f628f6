"""The decoder, from tokens to pixels: the encoder's mirror, without a class token.

Axes: b batch, h w grid cells, H W pixels, d width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from tcae_cli.model.compression import TokenExpansion, channels_first
from tcae_cli.model.layers import Blocks, LayerNorm, PositionEmbedding
from tcae_cli.recipe.schema import ModelSpec


class Decoder(nn.Module):
    """N blocks on the coarse grid, staged expansion, M blocks on the fine grid, one linear layer to pixels."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width, (fine_depth, coarse_depth) = spec.width, spec.depths
        self.patch_size = spec.patch_size
        self.positions = PositionEmbedding(spec.coarse_grid, width)
        self.coarse_blocks = Blocks(coarse_depth, width, spec.num_heads)
        self.expansion = (
            nn.Sequential(TokenExpansion(width), PositionEmbedding(spec.fine_grid, width)) if spec.staged else None
        )
        self.fine_blocks = Blocks(fine_depth, width, spec.num_heads)
        self.norm = LayerNorm(width)
        self.to_pixels = nn.Linear(width, 3 * spec.patch_size**2)

    def last_tokens(self, grid: Tensor) -> Tensor:
        """Return the last layer's input, [b, H/p, W/p, d], of tokens [b, h, w, d] on the coarse grid."""
        grid = _through(self.coarse_blocks, self.positions(grid))
        if self.expansion is not None:
            grid = self.expansion(grid)
        last: Tensor = self.norm(_through(self.fine_blocks, grid))
        return last

    def draw(self, last_tokens: Tensor) -> Tensor:
        """Return images [b, 3, H, W], about [-1, 1] and not clamped, of the last layer's input."""
        return F.pixel_shuffle(channels_first(self.to_pixels(last_tokens)), self.patch_size)


def _through(stack: Blocks, grid: Tensor) -> Tensor:
    tokens: Tensor = stack(grid.flatten(1, 2))
    return tokens.unflatten(1, grid.shape[1:3])
