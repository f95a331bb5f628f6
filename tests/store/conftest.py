"""Stores made through the writer alone, with latents that are random and known."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tcae_cli.reports.failure import Failure
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.store import spec as parts
from tcae_cli.store.buckets import finish, make_buckets, stores_of
from tcae_cli.store.commit import finalise
from tcae_cli.store.handle import StoreHandle, create_store
from tcae_cli.store.quantise import as_float
from tcae_cli.store.statistics import Moments
from tcae_cli.store.writer import EncodedRows, ShardPlan, StoreWriter

SHAPE = (4, 2, 3)
BATCH_SIZE = 8
WITH_POSTERIOR = {"latent": parts.LatentShape(channels=4, downsampling=32, posterior=True)}


def spec_of(num_rows: int, **changes) -> parts.StoreSpec:
    fields = {
        "encoder": parts.EncoderIdentity(name="small", hash="ab" * 32, spec={}, recipe={}),
        "transform": parts.TransformSpec(resize="torch"),
        "compute": parts.ComputeSpec(dtype="fp32", batch_size=BATCH_SIZE),
        "latent": parts.LatentShape(channels=4, downsampling=32),
        "views": {"latents": parts.View(size=64, flip=False, height=2, width=3)},
        "source": parts.SourceIdentity(uri="photos", count=num_rows, fingerprint="cd" * 16, class_names=["a", "b"]),
        "dtype": "float16",
        "codec": "zstd",
        "rows_per_shard": 16,
        "has_captions": False,
        "tool_versions": {},
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    return parts.StoreSpec(**fields | changes)


def known_latents(num_rows: int, dtype: str = "float16", shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    values = np.random.default_rng(0).normal(1, 2, (num_rows, *shape))
    return (values * 20).astype(dtype) if dtype == "int8" else values.astype(dtype)


def values_of(spec: parts.StoreSpec, array: str, latents: np.ndarray) -> np.ndarray:
    """What an array holds: each view the latents, and with a posterior their absolute values as deviations."""
    return latents if array in spec.views else np.abs(latents)


def key_of(row: int) -> str:
    return f"a/{row}.jpg"


def encoded_rows(spec: parts.StoreSpec, rows: range, todo: list[int], latents: np.ndarray, failed: set[int]):
    ok = [row for row in todo if row not in failed]
    values = {array: values_of(spec, array, latents) for array in spec.latent_arrays}
    return EncodedRows(
        rows=rows,
        todo=todo,
        latents={array: each[todo] for array, each in values.items()},
        moments={array: Moments.of(as_float(each[ok], spec, array)) if ok else None for array, each in values.items()},
        original_sizes=np.array([[480, 640 + row] for row in todo], np.int32),
        crops={spec.crop_name(size): np.array([[0, 0, 64, row] for row in todo], np.int32) for size in spec.sizes},
        content_hashes=np.array([row + 2**63 for row in todo], np.uint64),
        failures={row: Failure(row, key_of(row), "decode", "it is broken") for row in todo if row in failed},
    )


def write_plan(writer: StoreWriter, plan: ShardPlan, latents: np.ndarray, failed: set[int], commit: bool = True):
    rows, todo = plan.rows, set(plan.todo)
    in_progress = writer.begin(
        plan,
        keys=[key_of(row) for row in rows],
        labels=np.array([row % 2 for row in rows], np.int64),
        captions=[f"caption {row} \N{SNOWMAN}" for row in rows] if writer.spec.has_captions else None,
    )
    try:
        for start in range(rows.start, rows.stop, BATCH_SIZE):
            batch = range(start, min(start + BATCH_SIZE, rows.stop))
            if of_batch := [row for row in batch if row in todo]:
                in_progress.add(encoded_rows(writer.spec, batch, of_batch, latents, failed))
        if commit:
            in_progress.commit()
    finally:
        in_progress.abandon()


def write_shards(path: Path, shards, failed: set[int] = frozenset(), commit: bool = True) -> list[int]:
    """Write those of the shards that need it; returns the rows that were encoded."""
    writer = StoreWriter(StoreHandle(LocalFolder(path)))
    latents = known_latents(writer.spec.num_rows, writer.spec.dtype, writer.spec.sample_shape())
    plans = writer.plan(shards)
    for plan in plans:
        write_plan(writer, plan, latents, failed, commit)
    return [row for plan in plans for row in plan.todo]


@pytest.fixture
def make_store(tmp_path) -> Callable[..., Path]:
    """Makes a store of known latents; `shards` are those committed, all by default, and then it is complete."""

    def make(num_rows: int = 40, failed: set[int] = frozenset(), shards=None, name="store.zarr", **changes) -> Path:
        path = tmp_path / name
        spec = spec_of(num_rows, **changes)
        path.mkdir()
        store = create_store(LocalFolder(path), spec)
        write_shards(path, range(spec.num_shards) if shards is None else shards, failed)
        finalise(store)
        return path

    return make


@pytest.fixture
def make_buckets_store(tmp_path) -> Callable[..., Path]:
    """Makes a complete store of buckets, of known latents; `counts` are the rows of each, by its name."""

    def make(counts: dict[str, int], failed: set[int] = frozenset(), name="buckets.zarr", **changes) -> Path:
        path = tmp_path / name
        path.mkdir()
        spec = spec_of(sum(counts.values()), buckets=parts.Buckets(step=32, max_aspect=3.0), **changes)
        root = create_store(LocalFolder(path), spec)
        make_buckets(root, counts)
        for bucket, store in stores_of(root).items():
            write_shards(path / "buckets" / bucket, range(store.spec.num_shards), failed)
        assert finish(root)
        return path

    return make
