"""`tcae eval`: how close a model's reconstructions are to a source's images."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from tcae_cli.checkpoint import load_autoencoder
from tcae_cli.data.image_batch import BatchRows, ImageBatch
from tcae_cli.data.loader import load_batches
from tcae_cli.data.partition import batches_of_rows
from tcae_cli.data.source import open_source
from tcae_cli.data.transform import to_float, to_uint8
from tcae_cli.errors import SourceError, UsageError
from tcae_cli.metrics.image import METRICS
from tcae_cli.model.tcae import TCAE
from tcae_cli.report import EvalReport, EvalRequest, Progress
from tcae_cli.runtime.device import choose_device, naming_the_batch_size


@torch.inference_mode()
def evaluate(request: EvalRequest, progress: Progress) -> EvalReport:
    """Mean of each metric over the images of a source, centre-cropped to the model's size, after a uint8 round trip.

    Raises a TcaeError for a model, source or metric that cannot work.
    """
    if unknown := [name for name in request.metrics if name not in METRICS]:
        raise UsageError(f"--metric {unknown[0]} is not one of {', '.join(METRICS)}")
    started = time.perf_counter()
    device = choose_device(request.device)
    model = load_autoencoder(request.model, device)
    sums, num_images, num_failed = dict.fromkeys(request.metrics, 0.0), 0, 0
    with TemporaryDirectory() as index:
        source = open_source(request.data, Path(index))
        progress.start("evaluate", len(source))
        for batch in load_batches(
            source,
            map(BatchRows, batches_of_rows(0, len(source), request.batch_size)),
            batch_size=request.batch_size,
            sizes=[model.spec.image_size],
            resize=request.resize,
            num_workers=request.num_workers,
        ):
            originals = _good_images(batch).to(device)
            decoded = _round_trip(model, originals)
            for name in request.metrics:
                sums[name] += float(METRICS[name](originals / 255, decoded / 255).double().sum())
            num_images, num_failed = num_images + len(originals), num_failed + len(batch.failures)
            progress.advance(len(batch.rows), failed=len(batch.failures))
    if not num_images:
        raise SourceError(f"{request.data}: none of the {num_failed} images can be read")
    return EvalReport(
        model=request.model,
        data=request.data,
        num_images=num_images,
        num_failed=num_failed,
        protocol={
            "crop": f"centre {model.spec.image_size} px, {request.resize}",
            "rounding": "uint8",
            "precision": "fp32",
            "psnr": "mean over images",
            "ssim": "11-px Gaussian, valid region",
        },
        values={name: total / num_images for name, total in sums.items()},
        elapsed_s=time.perf_counter() - started,
    )


def _good_images(batch: ImageBatch) -> Tensor:
    return batch.images[0][[slot for slot, row in enumerate(batch.rows) if row not in batch.failures]]


def _round_trip(model: TCAE, images: Tensor) -> Tensor:
    """What a user gets back from a cache of these images, uint8."""
    with naming_the_batch_size(len(images)):
        return to_uint8(model(to_float(images)))
