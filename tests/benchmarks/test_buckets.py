"""The cost of buckets: reading batches and encoding, against a square store of as many pixels."""

import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import BatchSampler, RandomSampler

from tcae_cli import BucketBatchSampler, LatentDataset, LatentStore
from tcae_cli.jobs.encode import encode_dataset
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.store.buckets import finish, make_buckets, stores_of
from tcae_cli.store.handle import create_store
from tcae_cli.store.spec import Buckets
from tcae_cli.store.writer import StoreWriter

from .conftest import NUM_ROWS, encoded_rows

NAMES = ["192x320", "256x256", "320x192"]
SHAPES = [(192, 320), (256, 256), (320, 192)]


def write_buckets(square: Path, path: Path) -> Path:
    """A store of three buckets with the latents of a square one, as far as they fit into each shape."""
    source, folder = LatentStore(square), LocalFolder(path)
    spec = source.spec.model_copy(update={"buckets": Buckets(step=64, max_aspect=2.0, names=NAMES)})
    folder.make()
    root = create_store(folder, spec)
    make_buckets(root, {name: NUM_ROWS // len(NAMES) for name in NAMES})
    for bucket in stores_of(root).values():
        writer, shape = StoreWriter(bucket), bucket.spec.sample_shape()
        for plan in writer.plan(range(bucket.spec.num_shards)):
            values = np.resize(source.latents(list(plan.rows)), (len(plan.rows), *shape))
            in_progress = writer.begin(
                plan, keys=[str(row) for row in plan.rows], labels=np.zeros(len(plan.rows), int), captions=None
            )
            in_progress.add(encoded_rows(plan.rows, dict.fromkeys(bucket.spec.views, values), bucket.spec))
            in_progress.commit()
    assert finish(root)
    return path


def values_a_second(dataset: LatentDataset, batches: Iterable[list[int]]) -> float:
    started, num_values = time.perf_counter(), 0
    for batch in dataset.batches(batches):
        num_values += batch["latents"].numel()
    return num_values / (time.perf_counter() - started)


@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_batches_of_buckets_are_read_nearly_as_fast_as_of_squares(kept, tmp_path, show, codec):
    square = kept.zstd if codec == "zstd" else kept.none
    plain = LatentDataset(square)
    bucketed = LatentDataset(write_buckets(square, tmp_path / "buckets.zarr"))
    ratios = []
    for _ in range(5):
        of_squares = values_a_second(plain, BatchSampler(RandomSampler(plain), 256, drop_last=True))
        ratios.append(values_a_second(bucketed, BucketBatchSampler(bucketed, 256)) / of_squares)
    show(f"{codec}: batches of buckets at {median(ratios):.2f} of a square store (at least 0.9)")
    assert median(ratios) >= 0.9


def test_buckets_are_encoded_nearly_as_fast_as_squares(images, tmp_path, show):
    folder = tmp_path / "shaped"
    folder.mkdir()
    paths = 3 * sorted(images.rglob("*.png"))  # so many that a shape that is met for the first time costs nothing
    whole = len(paths) // (16 * len(SHAPES)) * 16 * len(SHAPES)  # batches, of as many as a shard of few images has
    for number, path in enumerate(paths[:whole]):
        height, width = SHAPES[number % len(SHAPES)]
        with Image.open(path) as picture:
            picture.convert("RGB").resize((2 * width, 2 * height)).save(folder / f"{number}.jpg", quality=90)

    def images_a_second(name: str, **options) -> float:
        request = EncodeRequest(source=str(folder), store=str(tmp_path / name), sizes=(256,), device="cpu", **options)
        report = encode_dataset(request, Silent())
        return report.num_ok / report.steady_s

    ratios = []
    for attempt in range(3):
        of_squares = images_a_second(f"square-{attempt}.zarr")
        ratios.append(images_a_second(f"buckets-{attempt}.zarr", buckets=True) / of_squares)
    show(f"buckets are encoded at {median(ratios):.2f} of squares (at least 0.95)")
    assert median(ratios) >= 0.95
