"""The speed at which a device trains, measured on a few steps of noise or, where those take too long, on one block."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from tcae_cli.model.layers import Block
from tcae_cli.recipe.schema import Recipe
from tcae_cli.reports.report import Span
from tcae_cli.runtime.device import autocast
from tcae_cli.runtime.memory import total_bytes
from tcae_cli.training.blank import BlankRun, blank_batch
from tcae_cli.training.cost import FORWARD_AND_BACKWARD, forward_flops
from tcae_cli.training.footprint import Footprint
from tcae_cli.training.step import training_step

_TIMES = 3
_BLOCKS_S = 0.5  # to spend on a block
_STEPS_S = 2.5  # to spend on steps, the first of which warms up
_TOKENS = {"cpu": 1024, "cuda": 2**16}  # at a time through a block; more keep a GPU busier
_SAFE_SHARE = 0.7  # of a device's memory


@dataclass(frozen=True)
class Pace:
    """The speed of training, and what it was measured on."""

    flops_per_s: Span
    basis: str  # in words


def measure_pace(
    recipe: Recipe, work: Footprint, device: torch.device, num_images: int, *, freeze_encoder: bool
) -> Pace:
    """Return the speed at which a rank trains in micro-batches of so many images."""
    of_block = _pace_of_block(recipe, device)
    image_s = work.flops / of_block.flops_per_s.median
    affordable = int(_STEPS_S / (_TIMES + 1) / image_s)
    fitting = int(num_images * _SAFE_SHARE * total_bytes(device) / work.peak_bytes)
    images = min(num_images, affordable, fitting)
    if images < 1:
        return of_block
    return _pace_of_steps(recipe, work, device, images, freeze_encoder)


def _pace_of_block(recipe: Recipe, device: torch.device) -> Pace:
    """Return the speed of forward and backward of one transformer block, at the number of tokens it sees."""
    model = recipe.model
    tokens = model.fine_grid**2 + 1
    shape = max(1, _TOKENS[device.type] // tokens), tokens, model.width
    with torch.device("meta"):
        flops = FORWARD_AND_BACKWARD * forward_flops(Block(model.width, model.num_heads), torch.empty(shape))
    block, images = Block(model.width, model.num_heads).to(device), torch.randn(shape, device=device)
    images.requires_grad_()

    def run() -> None:
        with autocast(device, recipe.train.precision):
            computed = block(images)
        computed.backward(torch.ones_like(computed))

    times = _timed(run, device, _BLOCKS_S)
    return _pace(flops, times, f"one of its transformer blocks, {tokens:,} tokens an image, {len(times)} times")


def _pace_of_steps(
    recipe: Recipe, work: Footprint, device: torch.device, num_images: int, freeze_encoder: bool
) -> Pace:
    """Return the speed of whole steps with micro-batches of so many images, before a discriminator plays."""
    train = recipe.train.model_copy(update={"accumulate": 1, "batch_size": num_images})
    run = BlankRun(recipe.model_copy(update={"train": train}), device, freeze_encoder=freeze_encoder)
    run.allocate_to_train()
    batch = blank_batch(recipe, num_images)

    def step() -> None:
        training_step(run.trainer, run.state, batch)
        run.state.step = 0

    times = _timed(step, device, _STEPS_S)
    flops = work.flops * num_images
    return _pace(flops, times, f"steps of {num_images:,} black images, {len(times)} times")


def _timed(run: Callable[[], None], device: torch.device, enough_s: float) -> list[float]:
    """Return the seconds of several runs, after one that warms up; at least one, at most enough_s in all."""
    times: list[float] = []
    started = time.perf_counter()
    for number in range(_TIMES + 1):
        before = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number:
            times.append(time.perf_counter() - before)
        if times and time.perf_counter() - started > enough_s:
            break
    return times


def _pace(flops: float, times: list[float], basis: str) -> Pace:
    return Pace(Span(flops / max(times), flops / median(times), flops / min(times)), basis)
