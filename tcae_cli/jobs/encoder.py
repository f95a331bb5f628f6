"""Turns batches of images into rows of a store: encoded on one device, checked, rounded and counted.

Axes: k rows of a batch, c latent channels, h w latent positions.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tcae_cli.autoencoders.runner import Runner
from tcae_cli.errors import DeviceError
from tcae_cli.images.batch import Crop, ImageBatch
from tcae_cli.reports.failure import Failure
from tcae_cli.store.quantise import dequantise, quantise, scale_of
from tcae_cli.store.spec import StoreSpec
from tcae_cli.store.statistics import Moments
from tcae_cli.store.writer import EncodedRows


@dataclass(frozen=True)
class Encoded:
    """Latents of a batch, which a GPU may still be computing until `wait` returns."""

    batch: ImageBatch
    latents: dict[str, Tensor]  # of each latent array, [batch_size, c, h, w], float32, on the host
    started: torch.cuda.Event | float
    done: torch.cuda.Event | float

    def wait(self) -> float:
        """Wait until the latents are on the host, and return the seconds the device spent."""
        if isinstance(self.started, torch.cuda.Event) and isinstance(self.done, torch.cuda.Event):
            self.done.synchronize()
            return self.started.elapsed_time(self.done) / 1000
        assert isinstance(self.started, float) and isinstance(self.done, float)
        return self.done - self.started


class LatentEncoder:
    """Encodes batches of images into every view of a store."""

    def __init__(self, runner: Runner, spec: StoreSpec) -> None:
        self._eager = runner
        self._runner = runner.compiled() if spec.compute.compiled else runner
        self.spec = spec
        self._on_gpu = runner.device.type == "cuda"

    @torch.inference_mode()
    def compile(self, crops: Sequence[Crop]) -> None:
        """Compile the encoder for batches of these crops now, rather than amid the batches.

        Raises DeviceError if this machine cannot compile.
        """
        try:
            for crop in crops:
                for shape in crop.transform.shapes:
                    self._runner.encode(torch.zeros(crop.batch_size, 3, *shape, dtype=torch.uint8))
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = str(error.inner_exception).partition("\n")[0]
            raise DeviceError(
                f"the encoder could not be compiled ({reason}); install gcc, or pass --no-compile, with another "
                f"store if this one has rows"
            ) from error

    @torch.inference_mode()
    def __call__(self, batch: ImageBatch) -> Encoded:
        """Start to encode a batch. On a GPU this returns at once: copies from and to pinned memory are asynchronous."""
        if self._on_gpu:
            torch.cuda.set_device(self._runner.device)  # of this thread
        started = self._now()
        latents: dict[str, Tensor] = {}
        with self._runner.computing(len(batch.images[0])):
            # Each size is copied to the device once, not once for each of its views.
            images = [each.to(self._runner.device, non_blocking=True) for each in batch.images]
            for name in self.spec.views:
                for array, on_device in encode_view(self._runner, self.spec, name, self._view(name, images)).items():
                    latents[array] = torch.empty(on_device.shape, pin_memory=self._on_gpu)
                    latents[array].copy_(on_device, non_blocking=True)
        return Encoded(batch, latents, started, self._now())

    @torch.inference_mode()
    def again_in_float32(self, batch: ImageBatch, name: str, slot: int) -> list[np.ndarray]:
        """Return the values [c, h, w] of one image in each array of a view, encoded without autocast."""
        images = self._view(name, [each[slot : slot + 1] for each in batch.images])
        encoded = encode_view(self._eager.at("fp32"), self.spec, name, images)
        return [values[0].cpu().numpy() for values in encoded.values()]

    def _view(self, name: str, images_of_sizes: list[Tensor]) -> Tensor:
        view = self.spec.views[name]
        images = images_of_sizes[self.spec.sizes.index(view.size)]
        return images.flip(-1) if view.flip else images

    def _now(self) -> torch.cuda.Event | float:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def encode_view(runner: Runner, spec: StoreSpec, view: str, images: Tensor) -> dict[str, Tensor]:
    """Return what each array of a view holds of images [k, 3, h, w], uint8, as they are seen in it: [k, c, h, w]."""
    encoded = runner.encode_posterior(images) if spec.latent.posterior else (runner.encode(images),)
    return dict(zip(spec.arrays_of(view), encoded, strict=True))


def pack_rows(encoded: Encoded, encoder: LatentEncoder) -> EncodedRows:
    """Return the rows of a batch: latents in the store's dtype, their moments, and the rows that failed.

    Rows with a value that is not finite, or beyond the dtype, are encoded once more in float32; those with a value
    that is then not finite, or still beyond, have failed.
    """
    spec = encoder.spec
    batch = encoded.batch
    slots = batch.slots()
    failures = dict(batch.failures)
    values = {name: latents[slots].numpy() for name, latents in encoded.latents.items()}
    again: set[int] = set()
    for name in spec.views:
        again |= _encode_again(values, name, batch, encoder, failures)
    ok = [k for k, row in enumerate(batch.todo) if row not in failures]

    stored, moments, clipped = {}, {}, {}
    for name in spec.latent_arrays:
        stored[name], as_read, num_clipped = round_values(values[name], spec, name)
        moments[name] = Moments.of(as_read[ok]) if ok else None
        clipped[name] = int(num_clipped[ok].sum())
    return EncodedRows(
        rows=batch.rows,
        todo=batch.todo,
        latents=stored,
        moments=moments,
        original_sizes=batch.original_sizes[slots],
        crops={spec.crop_name(size): crops[slots] for size, crops in zip(spec.sizes, batch.crops, strict=True)},
        content_hashes=batch.content_hashes[slots],
        failures=failures,
        num_again=len(again - failures.keys()),
        num_clipped=clipped if spec.quantisation else None,
    )


def _encode_again(
    values: dict[str, np.ndarray], name: str, batch: ImageBatch, encoder: LatentEncoder, failures: dict[int, Failure]
) -> set[int]:
    """Replace values that do not fit by float32 ones, and return the rows they are of.

    values: of each array, [k, c, h, w]; name: of the view whose arrays are looked at. Rows whose float32 values do not
    fit either are added to the failures.
    """
    dtype = encoder.spec.dtype
    largest = float(np.finfo(np.float32 if dtype == "int8" else dtype).max)
    of_view = [values[array] for array in encoder.spec.arrays_of(name)]
    again = set()
    for k, (row, slot) in enumerate(zip(batch.todo, batch.slots(), strict=True)):
        if row in failures or all(np.abs(each[k]).max() <= largest for each in of_view):  # False for a NaN
            continue
        again.add(row)
        for each, encoded in zip(of_view, encoder.again_in_float32(batch, name, slot), strict=True):
            each[k] = encoded
        if not all(np.isfinite(each[k]).all() for each in of_view):
            error = "the latents are not finite, in float32 either; exclude the image, or try another --model"
            failures[row] = batch.failure(row, "encode", error)
        elif any(np.abs(each[k]).max() > largest for each in of_view):
            error = f"the latents are beyond {dtype}; encode into another store with --dtype float32"
            failures[row] = batch.failure(row, "encode", error)
    return again


def round_values(values: np.ndarray, spec: StoreSpec, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return latents as stored, as a reader gets them in float32, and the number of clipped values of each row, [k]."""
    not_clipped = np.zeros(len(values), np.int64)
    scale = scale_of(spec, name)
    if scale is not None:
        with np.errstate(invalid="ignore", over="ignore"):  # failed rows are not stored
            stored, clipped = quantise(values, scale)
        return stored, dequantise(stored, scale), clipped
    if spec.dtype == "float32":
        return values, values, not_clipped
    half = torch.from_numpy(values).half()  # numpy takes twenty times as long
    return half.numpy(), half.float().numpy(), not_clipped
