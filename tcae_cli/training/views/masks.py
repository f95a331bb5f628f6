"""Draws block-wise masks over the tokens of global crops, as BEiT and iBOT do (arXiv:2106.08254, arXiv:2111.07832).

Axes: m tokens of the coarse grid along a side.
"""

import math

import numpy as np
import torch
from torch import Tensor

from tcae_cli.recipe.schema import SelfDistillationSpec

_LARGEST_ASPECT = 1 / 0.3
_ATTEMPTS = 10  # at placing a block


def draw_mask(grid: int, spec: SelfDistillationSpec, random: np.random.Generator) -> Tensor:
    """Return a mask [m, m], bool, m = grid: empty, or true in rectangles that cover at most a drawn share of tokens."""
    mask = torch.zeros(grid, grid, dtype=torch.bool)
    if random.random() >= spec.mask_share:
        return mask
    left = int(random.uniform(*spec.mask_ratio) * grid * grid)
    while left > 0:
        added = _add_block(mask.numpy(), left, random)
        if not added:
            break
        left -= added
    return mask


def _add_block(mask: np.ndarray, most: int, random: np.random.Generator) -> int:
    """Mask one more rectangle; return how many tokens it added, at most `most`, and 0 if no place was found."""
    grid = len(mask)
    smallest = (grid // 3) ** 2
    for _ in range(_ATTEMPTS):
        # If fewer tokens are left than the smallest block has, it can only overlap others.
        area = smallest + (most - smallest) * random.random()
        aspect = _LARGEST_ASPECT ** random.uniform(-1, 1)
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < height < grid and 0 < width < grid):
            continue
        top, left = random.integers(grid - height, endpoint=True), random.integers(grid - width, endpoint=True)
        block = mask[top : top + height, left : left + width]
        added = block.size - int(block.sum())
        if 0 < added <= most:
            block[:] = True
            return added
    return 0
