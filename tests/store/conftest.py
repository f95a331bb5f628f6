"""Stores made through the writer alone, with latents that are random and known."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tcae_cli.store import layout
from tcae_cli.store.commit import finalise
from tcae_cli.store.writer import EncodedRows, StoreWriter

SHAPE = (4, 2, 3)


def spec_of(num_rows: int, **changes) -> layout.StoreSpec:
    fields = {
        "encoder": layout.EncoderIdentity(name="small", hash="ab" * 32, spec={}, recipe={}),
        "transform": layout.TransformSpec(size=64, resize="torch"),
        "compute": layout.ComputeSpec(dtype="fp32", batch_size=8),
        "latent": layout.LatentShape(channels=4, height=2, width=3, downsampling=32),
        "source": layout.SourceIdentity(uri="photos", count=num_rows, fingerprint="cd" * 16, class_names=["a", "b"]),
        "dtype": "float16",
        "codec": "zstd",
        "rows_per_shard": 16,
        "has_captions": False,
        "tool_versions": {},
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    return layout.StoreSpec(**fields | changes)


def known_latents(num_rows: int, dtype: str = "float16") -> np.ndarray:
    return np.random.default_rng(0).normal(1, 2, (num_rows, *SHAPE)).astype(dtype)


def write_shard(writer: StoreWriter, shard: int, latents: np.ndarray, failed: set[int], commit: bool = True):
    rows = writer.spec.rows_of_shard(shard)
    in_progress = writer.begin(
        shard,
        keys=[f"a/{row}.jpg" for row in rows],
        labels=np.array([row % 2 for row in rows], np.int64),
        captions=[f"caption {row} \N{SNOWMAN}" for row in rows] if writer.spec.has_captions else None,
    )
    for start in range(rows.start, rows.stop, 8):
        part = range(start, min(start + 8, rows.stop))
        in_progress.add(
            EncodedRows(
                rows=part,
                latents=latents[part.start : part.stop],
                original_sizes=np.array([[480, 640 + row] for row in part], np.int32),
                crops=np.array([[0, 0, 64, row] for row in part], np.int32),
                content_hashes=np.array([row + 2**63 for row in part], np.uint64),
                failures={row: ("decode", "it is broken") for row in part if row in failed},
            )
        )
    return in_progress.commit() if commit else in_progress.abandon()


@pytest.fixture
def make_store(tmp_path) -> Callable[..., Path]:
    """Makes a store of known latents; `shards` are those committed, all by default, and then it is complete."""

    def make(num_rows: int = 40, failed: set[int] = frozenset(), shards=None, name="store.zarr", **changes) -> Path:
        path = tmp_path / name
        spec = spec_of(num_rows, **changes)
        layout.create_store(path, spec)
        writer = StoreWriter(path)
        latents = known_latents(num_rows, spec.dtype)
        for shard in range(spec.num_shards) if shards is None else shards:
            write_shard(writer, shard, latents, failed)
        finalise(path)
        return path

    return make
