"""Encodes a few batches of a source into a store that is thrown away, to measure what the whole would take."""

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tcae_cli.autoencoders.runner import Runner
from tcae_cli.errors import SourceError
from tcae_cli.images.loader import load_readable
from tcae_cli.images.transform import Transform
from tcae_cli.jobs.encode_shards import EncodeRun, ShardsReport, Target, encode_shards
from tcae_cli.jobs.encoder import encode_view
from tcae_cli.reports.encode_plan import Rehearsal
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.report import Span
from tcae_cli.runtime.folder import open_folder
from tcae_cli.runtime.memory import peak_bytes
from tcae_cli.sources.source import Source
from tcae_cli.store.commit import finalise
from tcae_cli.store.handle import create_store
from tcae_cli.store.quantise import channel_scales
from tcae_cli.store.spec import Quantisation, StoreSpec
from tcae_cli.store.work import AllWork, PlannedWork
from tcae_cli.store.writer import StoreWriter

_BATCHES = 3  # of each thread that encodes
_ENOUGH_S = 5.0  # for all of them
_QUANTILE = 0.9999  # of int8 scales
_FEW_IMAGES = 8


def sample_spec(spec: StoreSpec, source: Source, runner: Runner) -> StoreSpec:
    """Return the spec of a small store of the source's first images, a shard for each batch.

    Where a batch takes long, batches are smaller than the command's.
    """
    batch_size = _batch_size(spec, runner)
    count = min(len(source), _BATCHES * _threads(runner.device) * batch_size)
    changes: dict[str, Any] = {
        "buckets": None,
        "source": spec.source.model_copy(update={"count": count}),
        "compute": spec.compute.model_copy(update={"batch_size": batch_size}),
        "rows_per_shard": batch_size,
    }
    if spec.dtype == "int8" and spec.quantisation is None:
        changes["quantisation"] = _rough_scales(spec, source, runner)
    return spec.model_copy(update=changes)


def _batch_size(spec: StoreSpec, runner: Runner) -> int:
    """Return how many images to encode together, so that all batches take no longer than _ENOUGH_S."""
    image_s = math.inf
    for _ in range(2):  # the first warms up
        started = time.perf_counter()
        for view in spec.views.values():
            runner.encode(torch.zeros(1, 3, view.size, view.size, dtype=torch.uint8)).cpu()
        image_s = time.perf_counter() - started
    return min(spec.compute.batch_size, max(1, int(_ENOUGH_S / (_BATCHES * _threads(runner.device) * image_s))))


def _threads(device: torch.device) -> int:
    """Return how many batches are encoded side by side, as threads_for_whole_batches does it."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def _rough_scales(spec: StoreSpec, source: Source, runner: Runner) -> Quantisation:
    """Return int8 scales by a few images: enough to see how well the latents compress."""
    rows = range(min(_FEW_IMAGES, len(source)))
    images = dict(zip(spec.sizes, load_readable(source, rows, Transform.of_store(spec)), strict=True))
    scale = {
        array: channel_scales(values.cpu().numpy(), _QUANTILE).tolist()
        for name, view in spec.views.items()
        if len(images[view.size])
        for array, values in encode_view(runner, spec, name, images[view.size]).items()
    }
    if not scale:
        raise SourceError(f"{source.uri}: none of the first {len(rows)} images can be read")
    return Quantisation(
        num_images=len(rows), quantile=_QUANTILE, scale=scale, relative_rmse={}, psnr_float32=0.0, psnr_int8=0.0
    )


def rehearse(run: EncodeRun, spec: StoreSpec, source: Source, scratch: Path) -> tuple[Rehearsal, dict[str, int]]:
    """Encode into a store in `scratch`; return what was measured, and the bytes of its files by name."""
    folder = open_folder(scratch / "store")
    folder.make()
    store = create_store(folder, spec)
    clock = _Clock()
    reports: list[ShardsReport] = []

    def encode() -> None:
        silent = replace(run, progress=clock)
        writer = StoreWriter(store)
        work = AllWork([PlannedWork(writer, range(spec.num_shards))])
        reports.append(
            encode_shards(silent, [Target(writer, range(spec.num_rows), Transform.of_store(spec))], source, work)
        )

    memory = peak_bytes(encode, run.device)
    finalise(store)
    (report,) = reports
    rates = [report.num_rows / (report.elapsed_s - report.startup_s), *clock.images_per_s(_threads(run.device))]
    rehearsal = Rehearsal(
        num_images=report.num_rows,
        num_failed=report.num_failed,
        batch_size=spec.compute.batch_size,
        images_per_s=Span(min(rates), median(rates), max(rates)),
        stage_seconds=report.stage_seconds,
        memory_bytes=memory,
    )
    return rehearsal, folder.sizes()


@dataclass
class _Clock(Silent):
    """A Progress that notes when each batch has been written."""

    times: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def advance(self, count: int = 1, failed: int = 0, note: str = "") -> None:
        self.times.append(time.perf_counter())
        self.counts.append(count)

    def images_per_s(self, width: int) -> list[float]:
        """Return the speed over each run of `width` batches, which are encoded side by side, after the first."""
        return [
            sum(self.counts[end - width + 1 : end + 1]) / (self.times[end] - self.times[end - width])
            for end in range(width, len(self.times))
        ]
