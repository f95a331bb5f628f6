"""A store of buckets, as samples and batches for training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tcae_cli import BucketBatchSampler, LatentDataset, LatentStore
from tcae_cli.errors import StoreError, UsageError

NAMES = ["96x160", "128x128", "160x96"]
FIELDS = ("latents", "label", "class_name", "key", "original_size", "crop")


@pytest.fixture(scope="module")
def make(shaped_photos, small_checkpoint, tmp_path_factory):
    """Encodes the photographs of six shapes into buckets."""
    from tcae_cli.jobs.encode import encode_dataset
    from tcae_cli.reports.encode import EncodeRequest
    from tcae_cli.reports.progress import Silent

    def encode(**options) -> Path:
        store = tmp_path_factory.mktemp("buckets") / "store.zarr"
        setting = {"sizes": (128,), "buckets": True, "bucket_step": 32, "num_workers": 0, "device": "cpu"}
        request = {"source": str(shaped_photos), "store": str(store), "model": str(small_checkpoint)}
        encode_dataset(EncodeRequest(**request, **setting, **options), Silent())
        return store

    return encode


@pytest.fixture(scope="module")
def store(make) -> Path:
    return make()


@pytest.fixture(scope="module")
def stores(store) -> list[LatentStore]:
    return [LatentStore(store / "buckets" / name) for name in NAMES]


def test_samples_are_those_of_one_bucket_after_another(store, stores):
    dataset = LatentDataset(store, normalise="none", fields=FIELDS)
    assert len(dataset) == 48 == sum(map(len, stores)) == len(dataset.labels)
    assert [(bucket.height, bucket.width) for bucket in dataset.buckets] == [(96, 160), (128, 128), (160, 96)]
    for bucket, part in zip(dataset.buckets, stores, strict=True):
        assert len(bucket.samples) == len(part)
        for row in (0, len(part) - 1):
            sample = dataset[bucket.samples[row]]
            assert np.array_equal(sample["latents"].numpy(), part.latents(row).astype(np.float32))
            assert (sample["key"], sample["label"]) == (part.keys(row), part.labels()[row])
            assert sample["class_name"] == dataset.class_names[sample["label"]]
            assert sample["original_size"].tolist() == part.original_sizes()[row].tolist()
            assert sample["crop"].tolist() == part.crops()[row].tolist()
            assert sample["crop"].dtype == torch.int64


def test_latents_are_normalised_by_the_statistics_of_all_buckets(store):
    dataset = LatentDataset(store)
    values = torch.cat([dataset[sample]["latents"].flatten(1) for sample in range(len(dataset))], dim=1)
    assert values.mean(1).abs().max() < 1e-3 and values.std(1) == pytest.approx(np.ones(8), abs=1e-2)
    raw = LatentDataset(store, normalise="none")[3]["latents"]
    assert torch.allclose(dataset.denormalise(dataset[3]["latents"]), raw, atol=1e-4)


def test_a_batch_of_one_bucket_has_its_shape(store):
    dataset = LatentDataset(store)
    for bucket in dataset.buckets:
        batch = dataset[list(bucket.samples)[:3]]
        assert batch["latents"].shape == (3, 8, bucket.height // 32, bucket.width // 32)
        assert torch.equal(batch["latents"][1], dataset[bucket.samples[1]]["latents"])


def test_a_batch_of_several_shapes_is_refused(store):
    dataset = LatentDataset(store)
    sentence = r"samples of shapes \(8, 3, 5\) and \(8, 4, 4\) make no batch; draw batches with BucketBatchSampler"
    first, second, _ = dataset.buckets
    with pytest.raises(UsageError, match=sentence):
        dataset[[first.samples[0], second.samples[0]]]
    with pytest.raises(UsageError, match="draw batches with BucketBatchSampler"):
        next(iter(DataLoader(dataset, batch_size=len(dataset))))
    with pytest.raises(IndexError):
        dataset[len(dataset)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_takes_the_sampler(store, num_workers):
    dataset = LatentDataset(store, fields=("latents", "key"))
    sampler = BucketBatchSampler(dataset, 4, drop_last=False)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers)
    keys = [key for batch in loader for key in batch["key"]]
    assert sorted(keys) == sorted(dataset[sample]["key"] for sample in range(48))


def test_threads_read_the_batches_of_the_sampler(store):
    dataset = LatentDataset(store, fields=("latents", "key"), in_memory=True)
    sampler = BucketBatchSampler(dataset, 4, drop_last=False)
    for batch, samples in zip(dataset.batches(sampler), list(sampler), strict=True):
        assert batch["key"] == dataset[samples]["key"]
        assert torch.equal(batch["latents"], LatentDataset(store)[samples]["latents"])


def test_a_square_store_is_one_bucket(stores):
    dataset = LatentDataset(stores[1].folder.uri, fields=("latents", "crop"))
    (bucket,) = dataset.buckets
    assert bucket == (range(len(dataset)), 128, 128)
    assert len(list(BucketBatchSampler(dataset, 2))) == len(dataset) // 2
    assert dataset[[0, 1]]["crop"].shape == (2, 4)


def test_mirrored_and_int8_latents_are_read(make):
    store = make(dtype="int8", flip=True)
    torch.manual_seed(0)
    dataset = LatentDataset(store, random_flip=True, normalise="none")
    views = [LatentDataset(store, view=view, normalise="none") for view in ("latents", "latents_flip")]
    drawn = [dataset[5]["latents"] for _ in range(20)]
    found = {number for latents in drawn for number, view in enumerate(views) if latents.equal(view[5]["latents"])}
    assert found == {0, 1}


def test_what_needs_one_shape_is_refused(store):
    dataset = LatentDataset(store)
    with pytest.raises(UsageError, match=r"latents of 3 shapes; .* dataset.batches\(BucketBatchSampler\(dataset"):
        _ = dataset.sample_shape
    with pytest.raises(UsageError, match="has latents of several shapes; use normalise='channel'"):
        LatentDataset(store, normalise="position")
    with pytest.raises(UsageError, match=r"each of which is a store of its own; name one of them, such as \S+/96x160"):
        LatentStore(store)


def test_a_store_that_is_not_complete_has_no_statistics(make, shaped_photos):
    store = make()
    (store / "buckets/96x160/.tcae/commits/000000.json").unlink()
    from tcae_cli.runtime.local_folder import LocalFolder
    from tcae_cli.store.commit import reopen
    from tcae_cli.store.handle import StoreHandle

    reopen(StoreHandle(LocalFolder(store)))
    with pytest.raises(StoreError, match="has no statistics yet; finish it by repeating tcae encode-dataset"):
        LatentDataset(store)
