"""A store of buckets in an object store holds what a local one does, and keeps the same promises."""

import shutil
from pathlib import Path

import pytest
import torch

from tcae_cli.jobs.update_metadata import update_store
from tcae_cli.jobs.verify import verify_store
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.store import VerifyRequest
from tcae_cli.store.bucket_sampler import BucketBatchSampler
from tcae_cli.store.dataset import LatentDataset

from ..store_contents import assert_same_arrays, assert_same_store
from .conftest import Killed

SETTING = {"sizes": (128,), "buckets": True, "bucket_step": 32, "batch_size": 4}


@pytest.fixture(scope="module")
def local_store(shaped_photos, encode, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("local") / "store.zarr"
    encode(shaped_photos, path, **SETTING)
    return path


def problems(source: Path, store: str) -> list[str]:
    return verify_store(VerifyRequest(store=store, source=str(source), num_rows=0), Silent()).problems


def test_it_equals_a_local_store_and_is_read_in_batches(shaped_photos, local_store, bucket, encode):
    store = f"{bucket}/store.zarr"
    encode(shaped_photos, store, **SETTING)
    assert_same_store(store, local_store)
    assert problems(shaped_photos, store) == []
    there, here = LatentDataset(store), LatentDataset(local_store)
    batches = list(BucketBatchSampler(there, 8))
    assert sorted(sample for batch in batches for sample in batch) == list(range(48))
    for found, wanted in zip(there.batches(batches), here.batches(batches), strict=True):
        assert torch.equal(found["latents"], wanted["latents"]) and torch.equal(found["label"], wanted["label"])


def test_a_run_that_is_killed_is_resumed_and_equals_one_that_was_not(
    shaped_photos, local_store, bucket, encode, die_after
):
    store = f"{bucket}/store.zarr"
    die_after(54)  # objects: amid the shards
    with pytest.raises(Killed):
        encode(shaped_photos, store, **SETTING)
    die_after(None)
    assert 0 < encode(shaped_photos, store, **SETTING).num_encoded_now < 48
    assert_same_store(store, local_store)


def test_images_are_appended_and_captions_updated(shaped_photos, bucket, encode, tmp_path):
    source = shutil.copytree(shaped_photos, tmp_path / "photos")
    added = [path.rename(tmp_path / path.name) for path in sorted((source / "thing").iterdir())[-3:]]
    encode(source, f"{bucket}/store.zarr", **SETTING)
    for path in added:
        path.rename(source / "thing" / path.name)
    assert encode(source, f"{bucket}/store.zarr", append=True, **SETTING).num_encoded_now == 3

    for path in source.rglob("*.jpg"):
        path.with_suffix(".txt").write_text(path.stem)
    request = EncodeRequest(source=str(source), store=f"{bucket}/store.zarr", update_metadata=True)
    assert update_store(request, Silent()).num_captions == 48
    assert problems(source, f"{bucket}/store.zarr") == []
    encode(source, tmp_path / "fresh.zarr", **SETTING)
    assert_same_arrays(f"{bucket}/store.zarr", tmp_path / "fresh.zarr")
