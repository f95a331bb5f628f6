"""What is in a store, read by LatentStore, by plain zarr and by tensorstore."""

import json
import pickle

import numpy as np
import pytest
import tensorstore
import torch
import zarr

from tcae_cli.errors import StoreError, UsageError
from tcae_cli.store.codecs.registry import CODECS
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.spec import rows_per_shard

from .conftest import known_latents
from .test_dataset import int8_with_flip


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_reader_gives_back_the_same_latents(make_store, codec, dtype):
    path = make_store(num_rows=40, codec=codec, dtype=dtype)  # the last shard is short

    written = known_latents(40, dtype)
    metadata = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / "latents")}}
    assert np.array_equal(LatentStore(path).latents(range(40)), written)
    assert np.array_equal(zarr.open_group(path, mode="r")["latents"][:], written)
    assert np.array_equal(tensorstore.open(metadata, read=True).result()[:].read().result(), written)


@pytest.mark.parametrize("codec", CODECS)
def test_failed_rows_are_nan_for_every_reader_and_cost_nobody_else(make_store, codec):
    path = make_store(num_rows=40, failed={0, 17, 39}, codec=codec)

    for latents in (LatentStore(path).latents(range(40)), zarr.open_group(path, mode="r")["latents"][:]):
        assert np.isnan(latents[[0, 17, 39]]).all()
        others = [row for row in range(40) if row not in {0, 17, 39}]
        assert np.array_equal(latents[others], known_latents(40)[others])


def test_rows_are_read_in_the_order_asked_for(make_store):
    store = LatentStore(make_store())

    assert np.array_equal(store.latents([39, 3, 17, 3]), known_latents(40)[[39, 3, 17, 3]])
    assert store.keys([39, 3]) == ["a/39.jpg", "a/3.jpg"]
    with pytest.raises(IndexError, match="row 40 of 40"):
        store.latents([40])


@pytest.mark.parametrize("has_captions", [False, True])
def test_one_row_has_values_without_a_list_around_them(make_store, has_captions):
    store = LatentStore(make_store(has_captions=has_captions))

    for row in (7, np.int64(7)):
        for read in (store.keys, store.captions, store.content_hash, store.latents, store.stored):
            assert np.array_equal(read(row), read([row])[0])
    assert store.keys(7) == "a/7.jpg" and store.captions(7) == ("caption 7 \N{SNOWMAN}" if has_captions else "")
    assert np.array_equal(store.latents(7), known_latents(40)[7])
    assert store.keys([]) == store.captions([]) == []


def test_what_is_no_row_is_refused_not_read_as_one(make_store):
    store = LatentStore(make_store())

    for read in (store.keys, store.captions, store.content_hash, store.latents):
        for row in (-1, 40, [3, 40]):
            with pytest.raises(IndexError, match=r"row (-1|40) of 40"):
                read(row)
        for mask in (store.status() == 1, [0.0, 1.0], "3"):
            with pytest.raises(UsageError, match="an index is a whole number or a list of them, not "):
                read(mask)


def test_side_arrays_say_what_each_row_is(make_store):
    path = make_store(failed={5}, has_captions=True)
    group, store = zarr.open_group(path, mode="r"), LatentStore(path)

    assert list(group["keys"][:3]) == ["a/0.jpg", "a/1.jpg", "a/2.jpg"]
    assert group["labels"][:4].tolist() == [0, 1, 0, 1]
    assert store.status().tolist() == [2 if row == 5 else 1 for row in range(40)]
    assert group["original_size"][39].tolist() == [480, 679]
    assert group["crop"][39].tolist() == [0, 0, 64, 39]
    assert int(group["content_hash"][39]) == 2**63 + 39
    assert store.captions([7]) == ["caption 7 \N{SNOWMAN}"]
    assert store.ok_rows.tolist() == [row for row in range(40) if row != 5]


def test_failures_are_a_table_anyone_can_read(make_store):
    path = make_store(failed={5, 20})

    table = zarr.open_group(path / "failures", mode="r")
    assert table["row"][:].tolist() == [5, 20]
    assert list(table["path"][:]) == ["a/5.jpg", "a/20.jpg"]
    assert LatentStore(path).failures()[1] == {
        "row": 20,
        "path": "a/20.jpg",
        "stage": "decode",
        "error": "it is broken",
    }


def test_statistics_are_those_of_all_ok_rows_in_float64(make_store):
    path = make_store(failed={5, 20})

    ok = [row for row in range(40) if row not in {5, 20}]
    values = known_latents(40)[ok].astype(np.float64)
    statistics = zarr.open_group(path / "statistics" / "latents", mode="r")
    for name, axes in (("channel", (0, 2, 3)), ("position", (0, 1))):
        assert np.allclose(statistics[f"{name}_mean"][:], values.mean(axes), rtol=0, atol=1e-14)
        assert np.allclose(statistics[f"{name}_std"][:], values.std(axes), rtol=0, atol=1e-14)
        assert np.array_equal(statistics[f"{name}_min"][:], values.min(axes))
        assert np.array_equal(statistics[f"{name}_max"][:], values.max(axes))
    attributes = zarr.open_group(path, mode="r").attrs["statistics"]["latents"]
    assert attributes["num_rows"] == 38
    assert attributes["mean"] == pytest.approx(values.mean(), abs=1e-12)
    assert attributes["std"] == pytest.approx(values.std(), abs=1e-12)


def test_normalised_latents_have_mean_0_and_deviation_1_and_come_back(make_store):
    store = LatentStore(make_store())
    raw = store.latents(range(40))

    normalised = store.normalise(raw)
    assert normalised.dtype == np.float32
    assert np.allclose(normalised.mean((0, 2, 3)), 0, atol=1e-6)
    assert np.allclose(normalised.std((0, 2, 3)), 1, atol=1e-6)
    assert np.array_equal(store.denormalise(normalised).astype(np.float16), raw)

    of_tensor = store.normalise(torch.from_numpy(raw))
    assert of_tensor.dtype == torch.float32 and np.array_equal(of_tensor.numpy(), normalised)
    assert torch.equal(store.denormalise(of_tensor).half(), torch.from_numpy(raw))
    assert np.array_equal(store.normalise(raw[3]), normalised[3])


def test_a_store_in_which_every_row_failed_is_complete_and_empty(make_store):
    path = make_store(num_rows=3, failed={0, 1, 2})

    store = LatentStore(path)
    assert store.complete and store.ok_rows.tolist() == []
    assert np.isnan(store.latents([0, 1, 2])).all()
    with pytest.raises(
        StoreError,
        match="has no good row: all 3 failed or are smaller than --min-size; tcae info says why, and tcae enc",
    ):
        store.normalise(store.latents([0]))


def test_metadata_is_json_that_strict_readers_accept(make_store):
    path = make_store(failed={1})

    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    files = list(path.rglob("zarr.json"))
    assert len(files) > 10
    for file in files:
        json.loads(file.read_text(), parse_constant=refuse)


def test_a_store_may_be_pickled_into_a_worker(make_store):
    store = LatentStore(make_store())
    assert np.array_equal(pickle.loads(pickle.dumps(store)).latents([7]), store.latents([7]))


def test_an_incomplete_store_warns_and_gives_what_it_has(make_store):
    path = make_store(shards=[0, 2])

    with pytest.warns(UserWarning, match="not complete"):
        store = LatentStore(path)
    assert np.array_equal(store.latents([3, 35]), known_latents(40)[[3, 35]])
    assert np.isnan(store.latents([20])).all()
    assert store.status().tolist() == [1] * 16 + [0] * 16 + [1] * 8


def test_a_damaged_shard_is_named(make_store):
    path = make_store()
    shard = path / "latents" / "c.1.0.0.0"
    data = bytearray(shard.read_bytes())

    data[3] ^= 0xFF
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=r"latents/c\.1\.0\.0\.0: the latents of row 16 are damaged"):
        LatentStore(path).latents([16])

    data[-9] ^= 0xFF
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=r"c\.1\.0\.0\.0 is damaged: its index does not match its checksum"):
        LatentStore(path).latents([20])


def test_a_path_without_a_store_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"nowhere\.zarr is not a store of latents"):
        LatentStore(tmp_path / "nowhere.zarr")
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(StoreError, match="a Zarr group of something else"):
        LatentStore(tmp_path / "other.zarr")


def test_a_view_names_that_of_its_mirrored_images(make_store):
    path = make_store(**int8_with_flip())

    assert LatentStore(path).mirrored_view() == "latents_flip"
    with pytest.raises(UsageError, match=r"view latents_flip of .* is itself mirrored; name the plain one, latents$"):
        LatentStore(path, "latents_flip").mirrored_view()
    with pytest.raises(
        UsageError, match=r"plain\.zarr has no view latents_flip; encode into another store with --flip"
    ):
        LatentStore(make_store(name="plain.zarr")).mirrored_view()


@pytest.mark.parametrize(
    ("num_rows", "sample_bytes", "rows"),
    [
        (1, 16_384, 16),
        (1_034, 16_384, 16),
        (10_000, 16_384, 128),
        (1_281_167, 16_384, 4096),
        (1_281_167, 16_384 * 16, 1024),  # 256 MiB a shard
        (10**9, 16_384, 4096),
    ],
)
def test_rows_of_a_shard(num_rows, sample_bytes, rows):
    assert rows_per_shard(num_rows, sample_bytes) == rows
