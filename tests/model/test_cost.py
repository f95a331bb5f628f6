"""Multiply-accumulates at 256 px, batch 1, and parameters of each size; B is the 164 G of arXiv:2604.07340."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import ModelSpec

COSTS = [  # preset, patch, staged, encoder GMACs, encoder + decoder GMACs, millions of parameters
    ("S", 8, True, 23.9, 47.7, 53.9),
    ("B", 32, False, 5.8, 11.7, 180),
    ("B", 16, False, 23.7, 47.4, 191),
    ("B", 8, False, 108.9, 217.8, 248),
    ("B", 8, True, 82.0, 164.0, 212.9),
    ("L", 8, True, 273.5, 547.0, 679.5),
]


def build(**spec) -> TCAE:
    with torch.device("meta"):
        return TCAE(ModelSpec.model_validate(spec))


def gmacs(model: TCAE) -> tuple[float, float]:
    """Return the cost of encode and of decode."""
    inputs = torch.empty(1, 3, 256, 256, device="meta"), torch.empty(1, 128, 8, 8, device="meta")
    counts = []
    for function, example in zip((model.encode, model.decode), inputs, strict=True):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            function(example)
        counts.append(counter.get_total_flops() / 2e9)
    return counts[0], counts[1]


def class_token_gmacs(spec: ModelSpec) -> float:
    """Return the cost of one more token than n: 12 d^2 of linear layers and (2n + 1) 2d of attention a block."""

    def block(n):
        return 12 * spec.width**2 + (2 * n + 1) * 2 * spec.width

    fine, coarse = spec.depths
    return (fine * block(spec.fine_grid**2) + coarse * block(spec.coarse_grid**2)) / 1e9


@pytest.mark.parametrize(("preset", "patch_size", "staged", "encoder", "both", "parameters"), COSTS)
def test_cost_matches_the_table_which_counts_patch_tokens_alone(preset, patch_size, staged, encoder, both, parameters):
    model = build(preset=preset, patch_size=patch_size, staged=staged)
    encode, decode = gmacs(model)
    encode -= class_token_gmacs(model.spec)

    # Half a percent, and half of the last digit printed.
    assert encode == pytest.approx(encoder, rel=0.005, abs=0.05)
    assert encode + decode == pytest.approx(both, rel=0.005, abs=0.05)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(parameters, rel=0.005)


def test_the_default_model_costs_164_gmacs_class_token_and_all():
    encode, decode = gmacs(build(preset="B"))

    assert encode == pytest.approx(82.0, rel=0.005)
    assert encode + decode == pytest.approx(164.0, rel=0.005)
