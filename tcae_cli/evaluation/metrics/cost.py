"""What encoding and decoding cost: parameters, multiply-accumulates, time and memory.

Axes: b batch, h w pixels, c latent channels, f pixels a latent position covers along a side.
"""

import copy
import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from tcae_cli.autoencoders.by_name import Autoencoder, ModelCard
from tcae_cli.recipe.choices import Precision
from tcae_cli.runtime.device import autocast, naming_the_batch_size

_ENOUGH_S = 0.3
_ENOUGH_TIMES = 3
_PROCESS = Path("/proc/self")

Run = Callable[[], Tensor]


@torch.no_grad()
def cost_figures(
    model: Autoencoder, card: ModelCard, size: int, device: torch.device, precision: Precision, batch_size: int
) -> dict[str, float]:
    """What `model`, on `device`, costs at `size` px, square; the figures of counted_cost, and for each direction

    *-peak-bytes: the most that a batch takes at once, beyond what was held before: weights, the batch, other networks.
    On a GPU of tensors, by torch's allocator; on the CPU of Linux of the process, good to a few MiB; elsewhere left
    out.
    *-images-per-s: of the median of at least three batches. Of noise that is on the device already: neither reading
    nor copying counts. One batch before warms up.
    Raises DeviceError where the batch does not fit.
    """
    generator, side = torch.Generator().manual_seed(0), size // card.downsampling
    images = (2 * torch.rand(batch_size, 3, size, size, generator=generator) - 1).to(device)
    latents = torch.randn(batch_size, card.latent_channels, side, side, generator=generator).to(device)

    figures = counted_cost(model, card, size)
    with naming_the_batch_size(batch_size), autocast(device, precision):
        for name, run in (("encode", lambda: model.encode(images)), ("decode", lambda: model.decode(latents))):
            run()
            if (peak := _peak_bytes(run, device)) is not None:
                figures[f"{name}-peak-bytes"] = peak
            figures[f"{name}-images-per-s"] = batch_size / _seconds(run, device)
    return figures


@torch.no_grad()
def counted_cost(model: Autoencoder, card: ModelCard, size: int) -> dict[str, float]:
    """What can be counted without computing: of the encoder and the decoder

    *-parameters: the numbers in the weights that a pass reads, frozen ones too.
    *-macs: multiply-accumulates of matrix products and convolutions for an image of `size` px, square; attention as the
    matrix products it is made of.
    """
    twin, side = _without_values(model), size // card.downsampling
    images = torch.empty(1, 3, size, size, device="meta")
    latents = torch.empty(1, card.latent_channels, side, side, device="meta")
    encoder, encode_macs = _count(lambda: twin.encode(images))
    decoder, decode_macs = _count(lambda: twin.decode(latents))
    return {
        "encoder-parameters": encoder,
        "decoder-parameters": decoder,
        "encode-macs": encode_macs,
        "decode-macs": decode_macs,
    }


def _without_values(model: Autoencoder) -> Autoencoder:
    """The same model on the meta device; no weight is copied on the way."""
    assert isinstance(model, nn.Module)
    weights = {id(each): nn.Parameter(_shape_of(each), requires_grad=False) for each in model.parameters()}
    return copy.deepcopy(model, memo={**weights, **{id(each): _shape_of(each) for each in model.buffers()}})


def _shape_of(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")


class _Parameters(TorchDispatchMode):
    """Notes the parameters that operations read."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, nn.Parameter] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._seen.update({id(leaf): leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, nn.Parameter)})
        return func(*args, **(kwargs or {}))

    def count(self) -> int:
        return sum(each.numel() for each in self._seen.values())


def _count(run: Run) -> tuple[int, float]:
    """Parameters read and multiply-accumulates made."""
    with _Parameters() as parameters, FlopCounterMode(display=False) as flops, sdpa_kernel(SDPBackend.MATH):
        run()
    return parameters.count(), flops.get_total_flops() / 2


def _seconds(run: Run, device: torch.device) -> float:
    """Of a run, in the median."""
    times: list[float] = []
    while len(times) < _ENOUGH_TIMES or sum(times) < _ENOUGH_S:
        _wait_for(device)
        started = time.perf_counter()
        run()
        _wait_for(device)
        times.append(time.perf_counter() - started)
    return median(times)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_bytes(run: Run, device: torch.device) -> int | None:
    if device.type == "cuda":
        held = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - held
    return _peak_bytes_of_process(run) if sys.platform == "linux" else None


def _peak_bytes_of_process(run: Run) -> int | None:
    """None where the system does not let a process forget its peak so far, as some containers."""
    try:
        # Memory that is free but kept would be used unseen.
        ctypes.CDLL(None).malloc_trim(0)
        (_PROCESS / "clear_refs").write_text("5")
        held = _memory_bytes("VmRSS")
        run()
        return max(0, _memory_bytes("VmHWM") - held)
    except OSError:
        return None


def _memory_bytes(name: str) -> int:
    lines = (line.split() for line in (_PROCESS / "status").read_text().splitlines())
    return next(int(words[1]) * 1024 for words in lines if words[0] == f"{name}:")
