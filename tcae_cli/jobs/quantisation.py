"""Measures the scales of an int8 store on a sample of its images, and what rounding to them costs.

Axes: k images, c latent channels, h w latent positions.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tcae_cli.autoencoders.runner import Runner, load_runner
from tcae_cli.errors import SourceError
from tcae_cli.images.buckets import rows_of_stores, transforms_of_stores
from tcae_cli.images.loader import load_readable
from tcae_cli.jobs.encoder import encode_view
from tcae_cli.metrics.image import mean_without_infinite, psnr
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Progress
from tcae_cli.sources.source import Source
from tcae_cli.store.quantise import channel_scales, dequantise, quantise
from tcae_cli.store.spec import MAIN_VIEW, Quantisation, StoreSpec

_MOST_IMAGES = 256
_QUANTILE = 0.9999
_SEED = 0


def measure_quantisation(
    request: EncodeRequest, spec: StoreSpec, source: Source, device: torch.device, progress: Progress
) -> StoreSpec:
    """Return the store's spec with the scales of its latent arrays, by a sample of rows that is the same every time.

    Raises SourceError if no image of the sample can be read.
    """
    runner = load_runner(request.model, device, spec.compute.dtype)
    originals, latents = _encode_sample(runner, spec, source, progress)
    values = {name: _values_of_channels(each) for name, each in latents.items()}
    scales = {name: channel_scales(each, _QUANTILE) for name, each in values.items()}
    rounded = {name: _as_stored(each, scales[name]) for name, each in values.items()}
    main = latents[MAIN_VIEW]
    before = _mean_psnr(runner, originals, main)
    after = _mean_psnr(runner, originals, [_as_stored(each, scales[MAIN_VIEW]) for each in main])
    quantisation = Quantisation(
        num_images=sum(map(len, originals)),
        quantile=_QUANTILE,
        scale={name: scale.tolist() for name, scale in scales.items()},
        relative_rmse={name: _relative_rmse(values[name], rounded[name]) for name in values},
        psnr_float32=before,
        psnr_int8=after,
    )
    progress.say(
        f"int8, on {quantisation.num_images} images: relative error {quantisation.relative_rmse[MAIN_VIEW]:.2%} of the "
        f"float32 latents, PSNR {before:.2f} -> {after:.2f} dB ({after - before:+.2f})"
    )
    return spec.model_copy(update={"quantisation": quantisation})


def _encode_sample(
    runner: Runner, spec: StoreSpec, source: Source, progress: Progress
) -> tuple[list[Tensor], dict[str, list[np.ndarray]]]:
    """Return batches of readable images of the main size, [k, 3, h, w], uint8, and each array's values of each batch.

    The images of a batch, which are of one bucket, have one shape.
    """
    sample = np.random.default_rng(_SEED).choice(len(source), min(_MOST_IMAGES, len(source)), replace=False)
    sample.sort()
    transforms = transforms_of_stores(spec)
    originals: list[Tensor] = []
    latents: dict[str, list[np.ndarray]] = {name: [] for name in spec.latent_arrays}
    progress.start("calibrate int8", len(sample))
    for bucket, rows in rows_of_stores(source, spec).items():
        chosen = np.intersect1d(sample, rows)
        for start in range(0, len(chosen), spec.compute.batch_size):
            batch = chosen[start : start + spec.compute.batch_size].tolist()
            images = dict(zip(spec.sizes, load_readable(source, batch, transforms[bucket]), strict=True))
            if len(images[spec.sizes[0]]):
                originals.append(images[spec.sizes[0]])
            for name, view in spec.views.items():
                pixels = images[view.size].flip(-1) if view.flip else images[view.size]
                if len(pixels):
                    for array, values in encode_view(runner, spec, name, pixels).items():
                        latents[array].append(values.cpu().numpy())
            progress.advance(len(batch))
    if not originals:
        raise SourceError(f"{source.uri}: none of the {len(sample)} images of the calibration sample can be read")
    return originals, latents


def _values_of_channels(batches: Sequence[np.ndarray]) -> np.ndarray:
    """Return all latents of batches, whose shapes may differ, as one sample of one row of positions, [1, c, 1, m]."""
    return np.concatenate([each.swapaxes(0, 1).reshape(1, each.shape[1], 1, -1) for each in batches], axis=-1)


def _as_stored(latents: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return latents as a reader of an int8 store gets them, float32."""
    return dequantise(quantise(latents, scale)[0], scale)


def _relative_rmse(latents: np.ndarray, rounded: np.ndarray) -> float:
    error = np.sqrt(np.square(rounded - latents, dtype=np.float64).mean())
    size = np.sqrt(np.square(latents, dtype=np.float64).mean())
    return float(error / size)


def _mean_psnr(runner: Runner, originals: Sequence[Tensor], latents: Sequence[np.ndarray]) -> float:
    """Return the PSNR after a uint8 round trip, mean over images that it changes, in dB."""
    of_images = [
        psnr(images / 255, runner.decode(torch.from_numpy(batch)).cpu() / 255)
        for images, batch in zip(originals, latents, strict=True)
    ]
    return mean_without_infinite(torch.cat(of_images))
