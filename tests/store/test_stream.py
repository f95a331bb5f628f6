"""LatentStream: shuffled batches of a rank from a few shards at a time."""

import asyncio
import weakref
from collections import Counter

import numpy as np
import pytest
import s3fs
import torch
import torch.distributed as dist
from fsspec.config import conf
from torch.utils.data import DataLoader

from tcae_cli import LatentStore, LatentStream
from tcae_cli.errors import StoreError, UsageError
from tcae_cli.store.shard_reader import ShardReader

from .conftest import known_latents
from .test_dataset import int8_with_flip

NUM_ROWS, FAILED = 203, {0, 17, 100, 202}  # 199 samples in 13 shards
FIELDS = ("latents", "label", "key")


@pytest.fixture
def path(make_store):
    return make_store(num_rows=NUM_ROWS, failed=FAILED)


def make_stream(path, rank=0, world_size=1, batch_size=4, **options) -> LatentStream:
    return LatentStream(path, batch_size=batch_size, fields=FIELDS, rank=rank, world_size=world_size, **options)


def keys_of(batches) -> list[list[str]]:
    return [batch["key"] for batch in batches]


def flat(keys: list[list[str]]) -> list[str]:
    return [key for batch in keys for key in batch]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_give_every_sample_once_but_for_the_few_that_are_dropped(path, num_workers):
    streams = [make_stream(path, rank, 3) for rank in range(3)]
    of_ranks = [keys_of(DataLoader(stream, batch_size=None, num_workers=num_workers)) for stream in streams]

    assert [len(keys) for keys in of_ranks] == [16, 16, 16] == [len(stream) for stream in streams]
    assert all(len(batch) == 4 for keys in of_ranks for batch in keys)
    given = Counter(key for keys in of_ranks for key in flat(keys))
    assert set(given.values()) == {1} and given.keys() < {f"a/{row}.jpg" for row in set(range(NUM_ROWS)) - FAILED}
    assert [stream.num_dropped for stream in streams] == [7, 7, 7] and len(given) == 199 - 7


def test_its_batches_are_those_of_the_store_normalised(path):
    store = LatentStore(path)
    for batch in make_stream(path, batch_size=50):
        rows = [int(key[2:-4]) for key in batch["key"]]
        assert np.array_equal(batch["latents"].numpy(), store.normalise(store.latents(rows)))
        assert batch["label"].tolist() == [row % 2 for row in rows]


def test_epochs_and_seeds_are_in_other_orders_and_come_again(path):
    def keys(seed, epoch):
        stream = make_stream(path, seed=seed)
        stream.set_epoch(epoch)
        return flat(keys_of(stream))

    assert keys(0, 0) == keys(0, 0)
    orders = [keys(0, 0), keys(0, 1), keys(1, 0)]
    assert len({tuple(order) for order in orders}) == 3
    dropped = [{f"a/{row}.jpg" for row in range(NUM_ROWS)} - set(order) for order in orders]
    assert len(set(map(frozenset, dropped))) == 3  # no sample is left out for ever


def test_rows_of_several_shards_are_mixed(path):
    for batch in keys_of(make_stream(path, batch_size=16))[:8]:
        rows = [int(key[2:-4]) for key in batch]
        assert len({row // 16 for row in rows}) >= 3 and rows != sorted(rows)


def test_workers_that_live_on_hear_of_the_next_epoch(path):
    stream = make_stream(path)
    loader = DataLoader(stream, batch_size=None, num_workers=2, persistent_workers=True)
    epochs = []
    for epoch in range(3):
        stream.set_epoch(epoch)
        epochs.append(flat(keys_of(loader)))
    assert len(set(map(tuple, epochs))) == 3 and {len(epoch) for epoch in epochs} == {196}


def test_no_more_shards_are_in_memory_than_are_mixed_and_each_is_read_once(path, monkeypatch):
    opened, most, whole = [], 0, ShardReader.whole

    def watched(reader, number, data):
        nonlocal most
        shard = whole(reader, number, data)
        opened.append((number, weakref.ref(shard)))
        most = max(most, sum(reference() is not None for _, reference in opened))
        return shard

    monkeypatch.setattr(ShardReader, "whole", watched)
    keys_of(make_stream(path, shards_together=3, batch_size=5))  # batches reach over the three
    assert most == 3 and sorted(number for number, _ in opened) == list(range(13))


def test_flips_are_drawn_by_the_seed_of_the_stream(make_store):
    path = make_store(num_rows=NUM_ROWS, **int8_with_flip())  # the mirrored view's steps are twice as large
    store = LatentStore(path)

    def epoch(seed):
        """Of each sample, in order, whether it is from the mirrored view."""
        stream = make_stream(path, random_flip=True, normalise="none", seed=seed)
        is_flipped = []
        for batch in stream:
            plain = torch.from_numpy(store.latents([int(key[2:-4]) for key in batch["key"]]))
            of_batch = torch.tensor([torch.equal(*pair) for pair in zip(batch["latents"], 2 * plain, strict=True)])
            assert torch.equal(batch["latents"][~of_batch], plain[~of_batch])
            is_flipped += of_batch.tolist()
        return is_flipped

    assert epoch(0) == epoch(0) != epoch(1)
    assert 70 < sum(epoch(0)) < 130


def test_a_remote_store_streams_the_same(path, bucket):
    s3fs.S3FileSystem().put(f"{path}/", f"{bucket}/store.zarr/", recursive=True)
    there = make_stream(f"{bucket}/store.zarr")

    assert keys_of(there) == keys_of(make_stream(path))
    forked = DataLoader(there, batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=20)
    assert sorted(flat(keys_of(forked))) == sorted(flat(keys_of(there)))


def test_its_rank_is_that_of_the_process_group_or_of_the_launch(path, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    launched = LatentStream(path, batch_size=4)
    assert (launched.rank, launched.world_size) == (1, 3)

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        grouped = LatentStream(path, batch_size=4)
    finally:
        dist.destroy_process_group()
    assert (grouped.rank, grouped.world_size) == (0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; use 1 or more"),
        ({"shards_together": 0}, "shards_together is 0; use 1 or more"),
        ({"seed": -1}, "seed is -1; use 0 or more"),
        ({"rank": 5, "world_size": 2}, "rank is 5; those of 2 ranks are 0 to 1"),
    ],
)
def test_numbers_out_of_range_are_refused(path, options, message):
    with pytest.raises(UsageError, match=message):
        make_stream(path, **options)


def test_a_store_of_fewer_samples_than_a_batch_is_refused(path):
    with pytest.raises(UsageError, match="has 199 samples, fewer than a batch of 64 for each of 4 ranks"):
        make_stream(path, batch_size=64, world_size=4)


def test_a_shard_that_is_lost_is_an_error(path):
    (path / "latents" / "c.1.0.0.0").unlink()
    with pytest.raises(StoreError, match=r"c\.1\.0\.0\.0 lacks the latents of row \d+; see tcae verify"):
        keys_of(make_stream(path))


def test_a_large_object_that_is_replaced_while_its_parts_are_fetched_is_fetched_again(make_store, bucket, monkeypatch):
    there, part_bytes = s3fs.S3FileSystem(), 256
    there.put(str(make_store(num_rows=16, failed={3}, codec="none")), f"{bucket}/store.zarr", recursive=True)
    whole = make_store(num_rows=16, name="whole.zarr", codec="none")
    monkeypatch.setitem(conf, "s3", {"default_block_size": part_bytes})
    stream = make_stream(f"{bucket}/store.zarr", normalise="none")
    rows = {key: row for row, key in enumerate(stream.dataset.store.keys(range(16)))}
    call, is_replaced, parts = s3fs.S3FileSystem._call_s3, asyncio.Event(), []

    async def end_first(self, method, *arguments, **options):
        """Answers with the part that has the index, replaces root and shard, and then with the other parts."""
        if method == "get_object" and "/latents/" in options["Key"] and len(parts) < 4:
            parts.append(options["Range"])
            if len(parts) < 4:
                await is_replaced.wait()
            else:
                answer = await call(self, method, *arguments, **options)
                place = {name: options[name] for name in ("Bucket", "Key")}
                root = {"Bucket": options["Bucket"], "Key": "store.zarr/zarr.json"}
                await call(self, "put_object", **root, Body=(whole / "zarr.json").read_bytes())
                await call(self, "put_object", **place, Body=(whole / "latents/c.0.0.0.0").read_bytes())
                is_replaced.set()
                return answer
        return await call(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", end_first)
    for batch in stream:
        expected = known_latents(16)[[rows[key] for key in batch["key"]]]
        assert np.array_equal(batch["latents"].numpy(), expected.astype(np.float32))
    assert len(parts) == 4
