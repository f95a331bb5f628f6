"""LatentStream of a store of buckets: batches of one shape, as many on every rank, from a few shards of each bucket."""

import weakref
from collections import Counter, defaultdict
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tcae_cli import BucketBatchSampler, LatentDataset
from tcae_cli.errors import UsageError
from tcae_cli.store.shard_reader import ShardReader

from ..web_server import serve_files
from .test_dataset import int8_with_flip
from .test_stream import FIELDS, make_stream

COUNTS = {"32x96": 70, "64x64": 101, "96x32": 25}  # rows, in shards of 16
FAILED = {0, 17, 24}  # of each bucket: 67, 98 and 22 samples


@pytest.fixture
def path(make_buckets_store) -> Path:
    return make_buckets_store(COUNTS, FAILED)


def samples_of(batches) -> list[list[tuple[int, int, str]]]:
    """Return the height, width and key of the samples of every batch."""
    return [[(*batch["latents"].shape[2:], key) for key in batch["key"]] for batch in batches]


def shape_of(batch) -> tuple[int, int]:
    ((height, width),) = {sample[:2] for sample in batch}
    return height, width


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_give_every_sample_once_but_for_those_that_are_dropped(path, num_workers):
    streams = [make_stream(path, rank, 3) for rank in range(3)]
    of_ranks = [samples_of(DataLoader(stream, batch_size=None, num_workers=num_workers)) for stream in streams]

    assert [len(batches) for batches in of_ranks] == [15, 15, 15] == [len(stream) for stream in streams]
    assert {len(batch) for batches in of_ranks for batch in batches} == {4}
    steps = [{shape_of(batch) for batch in step} for step in zip(*of_ranks, strict=True)]
    assert Counter(map(len, steps)) == {1: 14, 2: 1}  # what is left of the buckets makes the last one

    given = Counter(chain(*chain(*of_ranks)))
    dataset, dropped = LatentDataset(path, fields=FIELDS), streams[0].dropped()
    left = [(*dataset[sample]["latents"].shape[1:], dataset[sample]["key"]) for sample in dropped.tolist()]
    assert set(given.values()) == {1} and len(given) == 180 and not given.keys() & set(left)
    assert {stream.num_dropped for stream in streams} == {7} == {len(dropped)} and len(set(left)) == 7


def test_its_batches_are_those_of_the_dataset(path):
    dataset, stream = LatentDataset(path, fields=FIELDS), make_stream(path, batch_size=11)
    numbers = {sample["key"] + str(sample["latents"].shape): number for number, sample in enumerate(dataset)}
    for batch in stream:
        same = dataset[[numbers[key + str(batch["latents"].shape[1:])] for key in batch["key"]]]
        assert torch.equal(batch["latents"], same["latents"]) and torch.equal(batch["label"], same["label"])


def test_buckets_and_rows_are_mixed_and_others_are_dropped_in_each_epoch(path):
    stream = make_stream(path, world_size=4, batch_size=8)
    orders, dropped = [], []
    for epoch in range(8):
        stream.set_epoch(epoch)
        orders.append(samples_of(stream))
        dropped.append(set(stream.dropped().tolist()))
    assert orders[0] != orders[1] and len({tuple(map(shape_of, order)) for order in orders}) > 1
    assert not set.intersection(*dropped)  # also the bucket of less than a batch for each rank is read
    for batch in orders[0]:
        rows = [int(key[2:-4]) for _, _, key in batch]
        assert rows != sorted(rows)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_given", [1, 14])
def test_a_resumed_stream_continues_with_what_an_uninterrupted_one_gives(path, num_workers, num_given):
    def epoch(stream, number):
        stream.set_epoch(number)
        return samples_of(DataLoader(stream, batch_size=None, num_workers=num_workers))

    whole, resumed = make_stream(path, 1, 3), make_stream(path, 1, 3)
    batches = epoch(whole, 4)
    resumed.load_state_dict(whole.state_dict(num_given))
    assert epoch(resumed, 4) == batches[num_given:]
    assert epoch(resumed, 5) == epoch(whole, 5)


def test_a_state_of_other_buckets_is_refused(path, make_buckets_store):
    other = make_buckets_store(COUNTS | {"64x64": 102}, FAILED, name="other.zarr")
    sentence = r"the stream's num_samples was \[67, 98, 22\] and is \[67, 99, 22\]; resume with the first"
    with pytest.raises(UsageError, match=sentence):
        make_stream(other).load_state_dict(make_stream(path).state_dict())


def test_no_more_shards_of_a_bucket_are_in_memory_than_are_mixed_and_each_is_read_once(path, monkeypatch):
    opened, most, whole = defaultdict(list), Counter(), ShardReader.whole

    def watched(reader, number, data):
        shard = whole(reader, number, data)
        opened[reader].append((number, weakref.ref(shard)))
        most[reader] = max(most[reader], sum(reference() is not None for _, reference in opened[reader]))
        return shard

    monkeypatch.setattr(ShardReader, "whole", watched)
    samples_of(make_stream(path, shards_together=2, batch_size=5))
    assert set(most.values()) == {2}
    assert sorted(sorted(number for number, _ in of_one) for of_one in opened.values()) == [
        [0, 1], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6]
    ]  # fmt: skip


def test_flips_are_drawn_in_every_bucket(make_buckets_store):
    path = make_buckets_store(COUNTS, **int8_with_flip())  # the mirrored view's steps are twice as large
    plain = LatentDataset(path, normalise="none", fields=FIELDS)
    values = {f"{tuple(each['latents'].shape)} {each['key']}": each["latents"] for each in plain}
    times = Counter()
    for batch in make_stream(path, random_flip=True, normalise="none"):
        for latents, key in zip(batch["latents"], batch["key"], strict=True):
            once = values[f"{tuple(latents.shape)} {key}"]
            times[tuple(latents.shape), torch.equal(latents, 2 * once)] += 1
            assert torch.equal(latents, once) or torch.equal(latents, 2 * once)
    assert len(times) == 6 and min(times.values()) > 3


def test_less_than_a_batch_of_one_shape_for_each_rank_is_refused(path):
    with pytest.raises(UsageError, match="has 187 samples, fewer than a batch of 64 of one shape for each of 3 ranks"):
        make_stream(path, batch_size=64, world_size=3)
    assert make_stream(path, batch_size=64, world_size=2).num_dropped == 187 - 128


def test_a_store_of_buckets_on_a_web_server_is_read_as_a_local_one(path):
    here = LatentDataset(path)
    with serve_files(path.parent) as root:
        there = LatentDataset(f"{root}/{path.name}")
        sampler = BucketBatchSampler(there, 16)
        batches = [batch["latents"].numpy() for batch in there.batches(sampler)]
        streamed = [batch["latents"].numpy() for batch in make_stream(f"{root}/{path.name}", batch_size=16)]
    wanted = [here[samples]["latents"].numpy() for samples in BucketBatchSampler(here, 16)]
    assert all(map(np.array_equal, batches, wanted)) and len(batches) == len(wanted) == 11
    assert all(map(np.array_equal, streamed, (batch["latents"] for batch in make_stream(path, batch_size=16))))
