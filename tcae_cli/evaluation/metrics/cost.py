"""The cost of encoding and decoding: parameters, multiply-accumulates, time and memory.

Axes: b batch, h w pixels, c latent channels, f pixels a latent position covers along a side.
"""

import copy
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from tcae_cli.autoencoders.families import Autoencoder, ModelCard
from tcae_cli.autoencoders.runner import Runner
from tcae_cli.evaluation.metrics.figure import Figure, in_bytes, in_thousands
from tcae_cli.evaluation.metrics.metric import MODEL, Metric
from tcae_cli.runtime.memory import peak_bytes

_ENOUGH_S = 0.3
_ENOUGH_TIMES = 3

Run = Callable[[], Tensor]


class Cost(Metric):
    """Parameters, multiply-accumulates, peak memory and throughput of each direction; needs no image."""

    name = "cost"
    figures = (
        Figure("encoder-parameters", format=in_thousands),
        Figure("decoder-parameters", format=in_thousands),
        Figure("encode-macs", unit="multiply-accumulates an image", format=in_thousands),
        Figure("decode-macs", unit="multiply-accumulates an image", format=in_thousands),
        Figure("encode-peak-bytes", unit="bytes", format=in_bytes),
        Figure("encode-images-per-s", unit="images/s", format="{:,.1f}".format),
        Figure("decode-peak-bytes", unit="bytes", format=in_bytes),
        Figure("decode-images-per-s", unit="images/s", format="{:,.1f}".format),
    )
    needs = (MODEL,)
    protocol = "batches of noise that is on the device already, at the precision and the batch size asked for"
    looks_at_images = False
    counts_batches = False

    def protocol_here(self) -> str:
        device, request = self.setting.device, self.setting.request
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
        return f"on {name}, {request.precision}, batches of {request.batch_size}"

    def values(self, number: int) -> dict[str, float]:
        subject = self.setting.subject
        batch_size = self.setting.request.batch_size
        return cost_figures(subject.models[number], subject.cards[number], subject.size, batch_size)


def cost_figures(runner: Runner, card: ModelCard, size: int, batch_size: int) -> dict[str, float]:
    """Return the figures of counted_cost at `size` px, and for each direction those that are measured.

    *-peak-bytes: the most that a batch takes at once, beyond what was held before: weights, the batch, other networks.
    On a GPU these are bytes of tensors, by torch's allocator; on the CPU of Linux bytes of the process, good to a few
    MiB; elsewhere they are omitted.
    *-images-per-s: of the median of at least three batches, after one that warms up. The images are noise that is on
    the device already: neither reading nor copying counts.
    Raises DeviceError where the batch does not fit.
    """
    model, device = runner.model, runner.device
    generator, side = torch.Generator().manual_seed(0), size // card.downsampling
    images = (2 * torch.rand(batch_size, 3, size, size, generator=generator) - 1).to(device)
    latents = torch.randn(batch_size, card.latent_channels, side, side, generator=generator).to(device)

    figures = counted_cost(model, card, size)
    with runner.computing(batch_size):
        for name, run in (("encode", lambda: model.encode(images)), ("decode", lambda: model.decode(latents))):
            run()
            if (peak := peak_bytes(run, device)) is not None:
                figures[f"{name}-peak-bytes"] = peak
            figures[f"{name}-images-per-s"] = batch_size / _seconds(run, device)
    return figures


@torch.no_grad()
def counted_cost(model: Autoencoder, card: ModelCard, size: int) -> dict[str, float]:
    """Return what can be counted without computing, of the encoder and of the decoder, if there is one.

    *-parameters: the numbers in the weights that a pass reads, frozen ones too.
    *-macs: multiply-accumulates of matrix products and convolutions for an image of `size` px, square; attention counts
    as the matrix products that it is made of.
    """
    twin, side = _without_values(model), size // card.downsampling
    images = torch.empty(1, 3, size, size, device="meta")
    latents = torch.empty(1, card.latent_channels, side, side, device="meta")
    encoder, encode_macs = _count(lambda: twin.encode(images))
    if not card.has_decoder:
        return {"encoder-parameters": encoder, "encode-macs": encode_macs}
    decoder, decode_macs = _count(lambda: twin.decode(latents))
    return {
        "encoder-parameters": encoder,
        "decoder-parameters": decoder,
        "encode-macs": encode_macs,
        "decode-macs": decode_macs,
    }


def _without_values(model: Autoencoder) -> Autoencoder:
    """Return the same model on the meta device; no weight is copied."""
    assert isinstance(model, nn.Module)
    memo: dict[int, Tensor] = {id(each): torch.empty_like(each, device="meta") for each in model.buffers()}
    for each in model.parameters():
        memo[id(each)] = nn.Parameter(torch.empty_like(each, device="meta"), requires_grad=False)
    return copy.deepcopy(model, memo=memo)


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
    """Return the number of parameters that are read and of multiply-accumulates that are made."""
    with _Parameters() as parameters, FlopCounterMode(display=False) as flops, sdpa_kernel(SDPBackend.MATH):
        run()
    return parameters.count(), flops.get_total_flops() / 2


def _seconds(run: Run, device: torch.device) -> float:
    """Return the median time of a run."""
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    times: list[float] = []
    while len(times) < _ENOUGH_TIMES or sum(times) < _ENOUGH_S:
        wait()
        started = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - started)
    return median(times)
