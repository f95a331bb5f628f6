"""The transformer block and the learnt position embedding that encoder and decoder share.

Axes: b batch, h w grid rows and columns, n tokens, d width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm, Mlp, resample_abs_pos_embed_nhwc
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_MOST_GRAPHS = 64  # of one compiled block; torch's limit is 8, beyond which it would compute eagerly


class Attention(nn.Module):
    """Self-attention with QK-norm, computed without copies between layouts; [b, n, d] to [b, n, d].

    Queries, keys and values are products with three parts of one weight, so that each is contiguous where it is
    normalised, and its heads are views.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = LayerNorm(width // num_heads)
        self.k_norm = LayerNorm(width // num_heads)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        parts = zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
        queries, keys, values = (F.linear(tokens, *part).unflatten(-1, (self.num_heads, -1)) for part in parts)
        heads = [each.transpose(1, 2) for each in (self.q_norm(queries), self.k_norm(keys), values)]
        attended: Tensor = self.proj(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return attended


class Block(nn.Module):
    """Pre-norm transformer block: attention with QK-norm, then an MLP four times as wide; [b, n, d] to [b, n, d]."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = Attention(width, num_heads)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """Transform tokens [b, n, d]; keep: [b, 2], drop path's factors of each image's two branches, or None for 1."""
        attended = self.attn(self.norm1(tokens))
        if keep is not None:
            attended = attended * keep[:, 0, None, None].to(attended.dtype)
        tokens = tokens + attended
        computed = self.mlp(self.norm2(tokens))
        if keep is not None:
            computed = computed * keep[:, 1, None, None].to(computed.dtype)
        return tokens + computed


def compile_block(block: nn.Module, **how: Any) -> None:
    """Compile a block of a stack, with static shapes; `how` is given to torch.compile.

    Each shape of tokens has a graph of its own, compiled when the block first meets it.
    """
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, _MOST_GRAPHS)
    block.compile(dynamic=False, **how)


class PositionEmbedding(nn.Module):
    """Adds a learnt vector to each cell of a grid, resized bicubically where the grid is not `side` x `side`."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, side, side, width))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, grid: Tensor) -> Tensor:
        """Add positions to grid [b, h, w, d]."""
        return grid + resample_abs_pos_embed_nhwc(self.weight, list(grid.shape[1:3]))


class Blocks(nn.ModuleList):
    """A stack of `depth` blocks; with `checkpointing`, their activations are recomputed in the backward pass."""

    def __init__(self, depth: int, width: int, num_heads: int) -> None:
        super().__init__(Block(width, num_heads) for _ in range(depth))
        self.checkpointing = False

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """Transform tokens [b, n, d]; keep: [b, depth, 2], drop path's factors of each block's branches, or None."""
        for number, block in enumerate(self):
            kept = None if keep is None else keep[:, number].contiguous()
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, kept, use_reentrant=False)
            else:
                tokens = block(tokens, kept)
        return tokens


def init_weights(module: nn.Module) -> None:
    """Initialise linear layers as ViT and iBOT do: truncated normal of deviation 0.02, biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
