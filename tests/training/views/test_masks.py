"""Masks cover at most the drawn share of tokens, in rectangles, in the share of crops that the recipe asks for."""

import numpy as np
import pytest
from torch import Tensor

from tcae_cli.recipe.schema import SelfDistillationSpec
from tcae_cli.training.views.masks import draw_mask

GRID = 14


def masks(count: int = 400, grid: int = GRID, **spec) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    drawn = [draw_mask(grid, SelfDistillationSpec(**spec), random) for _ in range(count)]
    assert all(isinstance(mask, Tensor) for mask in drawn)
    return [mask.numpy() for mask in drawn]


def test_half_of_the_crops_are_whole():
    assert np.mean([mask.any() for mask in masks()]) == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize("mask_share", [0.0, 1.0])
def test_a_share_of_none_or_all_is_exact(mask_share):
    assert {bool(mask.any()) for mask in masks(mask_share=mask_share)} == {mask_share == 1.0}


@pytest.mark.parametrize("grid", [6, 8, 14, 16])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
def test_a_mask_has_as_many_tokens_as_its_ratio_allows_or_a_few_less(grid, ratio):
    most = int(ratio * grid * grid)
    counts = [int(mask.sum()) for mask in masks(100, grid, mask_share=1.0, mask_ratio=(ratio, ratio))]
    assert max(counts) <= most and np.mean(counts) > 0.8 * most


def test_ratios_are_spread_evenly():
    ratios = np.array([mask.mean() for mask in masks(mask_share=1.0)])
    assert ratios.mean() == pytest.approx(0.3, abs=0.03) and ratios.std() == pytest.approx(0.4 / 12**0.5, abs=0.02)
    assert ratios.max() <= 0.5


def test_masks_are_made_of_blocks():
    num_masked, num_alone = 0, 0
    for mask in masks(mask_share=1.0):
        assert _has_block(mask, (GRID // 3) ** 2 // 2)
        framed = np.pad(mask, 1)
        beside = framed[:-2, 1:-1] | framed[2:, 1:-1] | framed[1:-1, :-2] | framed[1:-1, 2:]
        num_masked, num_alone = num_masked + mask.sum(), num_alone + (mask & ~beside).sum()
    assert num_alone < 0.002 * num_masked  # of tokens drawn one by one, a quarter would be


def test_a_grid_too_small_for_a_block_stays_whole():
    assert not any(mask.any() for mask in masks(20, grid=1, mask_share=1.0, mask_ratio=(1.0, 1.0)))


def _has_block(mask: np.ndarray, area: int) -> bool:
    """Whether some rectangle of at least `area` tokens is all masked."""
    sums = np.pad(mask.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    for height in range(1, GRID):
        width = -(-area // height)
        if width < GRID:
            blocks = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
            if (blocks == height * width).any():
                return True
    return False
