"""Image batches to latents on one device: bf16 or float32, copies overlapped, non-finite results computed again.

Axes: k rows of a batch, c latent channels, h w latent positions.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tcae_cli.data.loader import ImageBatch
from tcae_cli.data.transform import to_float
from tcae_cli.runtime.device import Precision, autocast, naming_the_batch_size


@dataclass(frozen=True)
class Encoded:
    """Latents of a batch; on a GPU they may still be under way, until `wait` returns."""

    batch: ImageBatch
    latents: Tensor  # [batch_size, c, h, w], float32, on the host
    started: torch.cuda.Event | float
    done: torch.cuda.Event | float

    def wait(self) -> float:
        """Seconds the device spent, once the latents are there."""
        if isinstance(self.started, torch.cuda.Event) and isinstance(self.done, torch.cuda.Event):
            self.done.synchronize()
            return self.started.elapsed_time(self.done) / 1000
        assert isinstance(self.started, float) and isinstance(self.done, float)
        return self.done - self.started


class LatentEncoder:
    """Encodes uint8 batches [batch_size, 3, h, w] with `encode`, a model's method on images in [-1, 1]."""

    def __init__(self, encode: Callable[[Tensor], Tensor], device: torch.device, precision: Precision) -> None:
        self._encode, self._device, self._precision = encode, device, precision

    @torch.inference_mode()
    def __call__(self, batch: ImageBatch) -> Encoded:
        """Start on a batch. On a GPU this returns at once: copies in and out are asynchronous, from pinned memory."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # of this thread
        started = self._now()
        with naming_the_batch_size(len(batch.images)):
            images = to_float(batch.images.to(self._device, non_blocking=True))
            with autocast(self._device, self._precision):
                latents = self._encode(images).float()
            on_host = torch.empty(latents.shape, pin_memory=self._device.type == "cuda")
            on_host.copy_(latents, non_blocking=True)
        return Encoded(batch, on_host, started, self._now())

    @torch.inference_mode()
    def again_in_float32(self, batch: ImageBatch, slots: list[int]) -> np.ndarray:
        """Latents [k, c, h, w] of the images in these slots, without autocast."""
        images = to_float(batch.images[slots].to(self._device))
        latents: np.ndarray = self._encode(images).float().cpu().numpy()
        return latents

    def _now(self) -> torch.cuda.Event | float:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def storable(encoded: Encoded, encoder: LatentEncoder, dtype: str) -> tuple[np.ndarray, dict[int, tuple[str, str]]]:
    """The latents [k, c, h, w] of a batch's rows in the store's dtype, and the failures by row: stage and reason.

    Rows with a value that is not finite are encoded once more in float32; what is then not finite, or beyond what the
    dtype holds, has failed.
    """
    batch = encoded.batch
    values = encoded.latents[: len(batch.rows)].numpy()
    largest = float(np.finfo(dtype).max)
    failures = dict(batch.failures)
    for slot, row in enumerate(batch.rows):
        if row in failures or np.abs(values[slot]).max() <= largest:  # not so for a NaN
            continue
        values[slot] = encoder.again_in_float32(batch, [slot])[0]
        if not np.isfinite(values[slot]).all():
            failures[row] = ("encode", "the latents are not finite, in float32 either")
        elif np.abs(values[slot]).max() > largest:
            failures[row] = ("encode", f"the latents are beyond {dtype}; encode into a store with --dtype float32")
    with np.errstate(over="ignore", invalid="ignore"):  # failed rows are not stored
        return values.astype(dtype), failures
