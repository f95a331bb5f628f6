"""How much of the machine `encode-dataset` uses: against its stages run alone, in the same run."""

import os
import threading
import time
from pathlib import Path

import pytest
import torch

from tcae_cli.autoencoders.by_name import load_autoencoder
from tcae_cli.autoencoders.runner import load_runner
from tcae_cli.images.loader import BatchRows, ImageBatch, Reading, load_batches
from tcae_cli.images.partition import batches_of_rows
from tcae_cli.images.transform import Transform, to_float
from tcae_cli.jobs.encode import encode_dataset
from tcae_cli.jobs.encoder import Encoded, LatentEncoder, pack_rows
from tcae_cli.model.tcae import TCAE
from tcae_cli.reports.encode import EncodeReport, EncodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.sources.scan import open_source
from tcae_cli.sources.source import Source
from tcae_cli.store.handle import create_store
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.spec import StoreSpec
from tcae_cli.store.writer import StoreWriter


def encode(images: Path, store: Path, **options) -> EncodeReport:
    return encode_dataset(EncodeRequest(source=str(images), store=str(store), **options), Silent())


def read_all(source: Source, batch_size: int, num_workers: int) -> list[ImageBatch]:
    batches = map(BatchRows, batches_of_rows(0, len(source), batch_size))
    return list(load_batches(source, batches, Transform.square(256, "torch"), Reading(batch_size, num_workers)))


def write_all(encoded: list[Encoded], encoder: LatentEncoder, source: Source, spec: StoreSpec, path: Path) -> None:
    path.mkdir()
    writer, batches = StoreWriter(create_store(LocalFolder(path), spec)), iter(encoded)
    for plan in writer.plan(range(spec.num_shards)):
        rows = plan.rows
        labels = source.labels(rows.start, rows.stop)
        in_progress = writer.begin(plan, keys=source.keys(rows), labels=labels, captions=None)
        for _ in batches_of_rows(rows.start, rows.stop, spec.compute.batch_size):
            in_progress.add(pack_rows(next(batches), encoder))
        in_progress.commit()


class CpuSeconds:
    """CPU time of this process inside the block."""

    def __enter__(self) -> "CpuSeconds":
        self._started = time.process_time()
        return self

    def __exit__(self, *_) -> None:
        self.seconds = time.process_time() - self._started


@pytest.mark.skipif(torch.cuda.is_available(), reason="of the CPU")
def test_wall_time_is_near_the_cpu_time_of_the_stages_over_the_cores(images, tmp_path, show):
    report = encode(images, tmp_path / "whole.zarr", device="cpu")

    # Each stage alone, on one thread, where no thread spins while it waits for another.
    source = open_source(str(images), tmp_path / "index")
    spec = LatentStore(tmp_path / "whole.zarr").spec
    encoder = LatentEncoder(load_runner("tcae-tiny", torch.device("cpu"), spec.compute.dtype), spec)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with CpuSeconds() as read:
            batches = read_all(source, spec.compute.batch_size, num_workers=0)
        with CpuSeconds() as encode_them:
            encoded = [encoder(batch) for batch in batches]
        with CpuSeconds() as write:
            write_all(encoded, encoder, source, spec, tmp_path / "alone.zarr")
    finally:
        torch.set_num_threads(threads)

    cores = len(os.sched_getaffinity(0))
    ideal_s = (read.seconds + encode_them.seconds + write.seconds) / cores
    stages = f"read {read.seconds:.1f}, encode {encode_them.seconds:.1f}, pack and write {write.seconds:.1f} CPU s"
    ratio = report.steady_s / ideal_s
    show(f"{report.num_ok} images in {report.steady_s:.1f} s; {stages} on {cores} cores: {ratio:.2f}")
    assert ratio <= 1.25


def test_reading_encoding_and_writing_overlap(images, tmp_path, show, monkeypatch):
    source = open_source(str(images), tmp_path / "index")
    decode_s = sum(batch.decode_s for batch in read_all(source, 16, num_workers=1))
    num_batches = len(batches_of_rows(0, len(source), 16))

    one_device = threading.Lock()

    def encode_as_long_as_decoding_takes(self: TCAE, pixels: torch.Tensor) -> torch.Tensor:
        with one_device:
            time.sleep(decode_s / num_batches)
        return torch.zeros(len(pixels), 128, 8, 8)

    monkeypatch.setattr(TCAE, "encode", encode_as_long_as_decoding_takes)
    report = encode(images, tmp_path / "out.zarr", device="cpu", num_workers=1, batch_size=16)

    # Reading is slower beside other work where cores share their parts, so the slowest stage is that of the same run.
    read_s, wall_s = report.stage_seconds["read"], report.steady_s
    ratio = wall_s / max(read_s, decode_s)
    stages = f"read {read_s:.1f} s (alone {decode_s:.1f} s), encode (asleep) {decode_s:.1f} s"
    show(f"{stages}; together {wall_s:.1f} s: {ratio:.2f}")
    assert ratio <= 1.15


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_as_fast_as_the_slower_of_reading_and_encoding(images, tmp_path, show):
    report = encode(images, tmp_path / "out.zarr", device="cuda")
    source = open_source(str(images), tmp_path / "index")
    num_workers = len(os.sched_getaffinity(0))
    batch_size = LatentStore(tmp_path / "out.zarr").spec.compute.batch_size

    started = time.perf_counter()
    batches = read_all(source, batch_size, num_workers)
    read_per_s = len(source) / (time.perf_counter() - started)
    model = load_autoencoder(device="cuda")
    pixels = to_float(batches[0].images[0].cuda())
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        for repeat in range(60):
            if repeat == 10:
                torch.cuda.synchronize()
                started = time.perf_counter()
            model.encode(pixels)
        torch.cuda.synchronize()
    encode_per_s = 50 * batch_size / (time.perf_counter() - started)

    images_per_s = report.num_ok / report.steady_s
    share = images_per_s / min(read_per_s, encode_per_s)
    show(f"{images_per_s:.0f} images/s; bare read {read_per_s:.0f}, bare encode {encode_per_s:.0f}: {share:.2f}")
    assert share >= 0.85
