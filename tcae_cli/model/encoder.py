"""The encoder, from pixels to tokens: M blocks on the fine grid, staged compression, N blocks on the coarse grid.

Axes: b batch, H W pixels, h w cells of the last grid, p pixels a patch has along a side, d width.
"""

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from tcae_cli.model.compression import TokenCompression
from tcae_cli.model.layers import Blocks, LayerNorm, PositionEmbedding
from tcae_cli.recipe.schema import ModelSpec


class Encoder(nn.Module):
    """The trunk, up to and including the last norm. Source: TC-AE (arXiv:2604.07340, section 3); docs/training.md."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width, (fine_depth, coarse_depth) = spec.width, spec.depths
        self.patch_embed = PatchEmbed(None, spec.patch_size, 3, width, flatten=False, output_fmt="NHWC")
        self.positions = PositionEmbedding(spec.fine_grid, width)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        nn.init.trunc_normal_(self.class_token, std=0.02)
        self.fine_blocks = Blocks(fine_depth, width, spec.num_heads)
        self.compression = (
            nn.Sequential(TokenCompression(width), PositionEmbedding(spec.coarse_grid, width)) if spec.staged else None
        )
        self.coarse_blocks = Blocks(coarse_depth, width, spec.num_heads)
        self.norm = LayerNorm(width)

    def forward(
        self, images: Tensor, masks: Tensor | None = None, mask_vector: Tensor | None = None, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the normalised class token [b, d] and patch tokens [b, h, w, d] of images [b, 3, H, W] in [-1, 1].

        masks, mask_vector: [b, H/p, W/p] bool and [d]: where masks are true, the vector replaces the patch embedding
        before positions are added. keep: [b, M + N, 2], drop path's factors of each block's two branches.
        """
        grid = self.patch_embed(images)
        if masks is not None and mask_vector is not None:
            grid = torch.where(masks[..., None], mask_vector.to(grid.dtype), grid)
        grid = self.positions(grid)
        class_token = self.class_token.expand(len(images), -1, -1)
        fine, coarse = (None, None) if keep is None else keep.split([len(self.fine_blocks), len(self.coarse_blocks)], 1)

        class_token, grid = _through(self.fine_blocks, class_token, grid, fine)
        if self.compression is not None:
            grid = self.compression(grid)  # the class token bypasses it
        class_token, grid = _through(self.coarse_blocks, class_token, grid, coarse)

        return self.norm(class_token[:, 0]), self.norm(grid)


def _through(stack: Blocks, class_token: Tensor, grid: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    tokens = stack(torch.cat([class_token, grid.flatten(1, 2)], dim=1), keep)
    return tokens[:, :1], tokens[:, 1:].unflatten(1, grid.shape[1:3])
