"""How fast B/8 encodes against DC-AE f32c32, the autoencoder of the same downsampling that generators use most."""

import time
from collections.abc import Callable

import diffusers
import pytest
import torch

from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import ModelSpec
from tcae_cli.runtime.device import autocast

from ..small_diffusers import DC_F32C32

REPEATS = 7
BATCH_SIZE, NUM_THREADS = 2, 2


def seconds(encode: Callable[[torch.Tensor], object], images: torch.Tensor) -> float:
    started = time.perf_counter()
    encode(images)
    return time.perf_counter() - started


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(NUM_THREADS)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 1.9), ("bf16", 0)])
def test_it_encodes_faster_than_dc_ae(two_threads, show, precision, least):
    ours = TCAE(ModelSpec(preset="B")).eval().requires_grad_(False)
    other = diffusers.AutoencoderDC(**DC_F32C32).eval().requires_grad_(False)
    images = torch.rand(BATCH_SIZE, 3, 256, 256) * 2 - 1

    with torch.inference_mode(), autocast(torch.device("cpu"), precision):
        # Taking turns, so that both have the same machine; the first of each warms up.
        turns = [(seconds(ours.encode, images), seconds(other.encode, images)) for _ in range(1 + REPEATS)][1:]
    ours_s, other_s = (min(column) for column in zip(*turns, strict=True))  # other programs only slow things down
    ratio = other_s / ours_s
    show(f"{precision}: B/8 {BATCH_SIZE / ours_s:.2f} images/s, DC-AE f32c32 {BATCH_SIZE / other_s:.2f}: {ratio:.2f}")
    assert ratio >= least
