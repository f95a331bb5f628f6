"""No flipped bit of a store is ever read as a value, and no other file is needed to see that."""

import json
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tcae_cli import LatentStore
from tcae_cli.errors import StoreError
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.store.codecs.registry import CODECS
from tcae_cli.store.commit import append_rows, finalise
from tcae_cli.store.handle import StoreHandle, fit_arrays
from tcae_cli.store.layout import read_array
from tcae_cli.store.metadata import SEAL
from tcae_cli.store.record import read_records

from ..store_contents import arrays_of, files_of
from .conftest import known_latents, write_shards

FLIPS_A_FILE = 3


def everything_in(path: Path) -> list[Any]:
    """All that our readers give of a store, as values that compare."""
    store = LatentStore(path)
    rows = list(range(len(store)))
    sizes = read_array(store.folder, "original_size")
    texts = [store.keys(rows), store.captions(rows), [str(failure) for failure in store.failures()]]
    arrays = [store.latents(rows), store.labels(), store.status(), store.content_hash(), sizes]
    records = read_records(store.folder, range(store.spec.num_shards), store.folder.sizes())
    return [
        texts,
        [values.tobytes() for values in arrays],
        store.summaries,
        store.spec,
        [record and record.model_dump(exclude={"crc32c"}) for _, record in records],
    ]


def test_a_flipped_bit_of_any_file_is_an_error_or_changes_nothing(make_store):
    path = make_store(num_rows=20, failed={5}, has_captions=True, codec="none")
    whole, draw, num_seen = everything_in(path), random.Random(0), 0
    files = [file for file in path.rglob("*") if file.is_file() and "statistics" not in file.parts]
    for file in files:
        data = file.read_bytes()
        for _ in range(FLIPS_A_FILE if data else 0):
            changed = bytearray(data)
            changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            file.write_bytes(changed)
            try:
                assert everything_in(path) == whole, file
            except StoreError as error:
                num_seen += 1
                assert str(path) in str(error)
        file.write_bytes(data)
    assert len(files) > 20 and num_seen > len(files)


@pytest.mark.parametrize("codec", CODECS)
def test_every_flipped_bit_of_a_row_is_seen(make_store, codec):
    path = make_store(num_rows=16, codec=codec)
    whole, file = known_latents(16)[:1], path / "latents" / "c.0.0.0.0"
    data = file.read_bytes()
    _, size = np.frombuffer(data[-16 * 16 - 4 : -4], "<u8")[:2]
    store = LatentStore(path)
    for bit in range(8 * int(size)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)  # in place, so that the open store reads it
        try:
            assert np.array_equal(store.latents([0]), whole)  # some bits of a zstd frame's header mean nothing
        except StoreError as error:
            assert "the latents of row 0 are damaged" in str(error)


def test_damage_beside_the_latents_is_named(make_store):
    path = make_store()
    for array, read in (("labels", LatentStore.labels), ("keys", lambda store: store.keys([3]))):
        file = path / array / "c.1"
        data = bytearray(file.read_bytes())
        data[-6] ^= 4
        file.write_bytes(data)
        with pytest.raises(StoreError, match=rf"store\.zarr/{array} is damaged \(.*\); tcae verify .* says where"):
            read(LatentStore(path))
        metadata = path / array / "zarr.json"
        metadata.write_text(metadata.read_text().replace('"row"', '"now"'))
        with pytest.raises(StoreError, match=rf"/{array} is damaged \(it does not match its CRC-32C\); tcae verify"):
            read(LatentStore(path))
        metadata.unlink()
        with pytest.raises(StoreError, match=rf"/{array}/zarr\.json is missing; tcae verify .* says what else"):
            read(LatentStore(path))


def test_users_may_add_attributes_and_consolidate_anew(make_store):
    path = make_store(shards=[0, 1])
    zarr.open_group(path, mode="r+").attrs["licence"] = "CC0"
    zarr.open_array(path / "latents", mode="r+").attrs["note"] = "mine"
    with warnings.catch_warnings(action="ignore"):  # it is not in the specification
        zarr.consolidate_metadata(path)
    write_shards(path, [2])
    store = StoreHandle(LocalFolder(path))
    fit_arrays(store)

    assert finalise(store)
    assert zarr.open_group(path, mode="r").attrs["licence"] == "CC0"
    assert zarr.open_group(path, mode="r")["latents"].attrs["note"] == "mine"
    assert np.array_equal(LatentStore(path).latents(range(40)), known_latents(40))


def test_metadata_that_is_damaged_is_written_again_by_the_next_run(make_store):
    path = make_store(shards=[0])
    before = files_of(path)
    (path / "labels" / "zarr.json").write_text((path / "labels" / "zarr.json").read_text().replace("-1", "-3"))
    with pytest.raises(StoreError, match=r"labels/zarr\.json is damaged .* remove it and repeat tcae encode-dataset"):
        write_shards(path, [1])

    fit_arrays(StoreHandle(LocalFolder(path)))
    assert files_of(path) == before


@pytest.mark.parametrize("codec", CODECS)
def test_a_store_of_version_1_is_continued_as_such(make_store, codec):
    path = make_store(num_rows=20, failed={5}, codec=codec, format_version=1)
    new = make_store(num_rows=20, failed={5}, codec=codec, name="new.zarr")
    store = StoreHandle(LocalFolder(path))
    source = store.spec.source.model_copy(update={"count": 40})
    append_rows(store, source)
    fit_arrays(store)
    write_shards(path, range(3))
    finalise(store)

    for file in path.rglob("zarr.json"):
        metadata = json.loads(file.read_bytes())
        assert SEAL not in metadata["attributes"] and "consolidated_metadata" not in metadata
        if metadata["node_type"] == "array":
            assert metadata["shape"][0] in (40, *(1, 2, 3, 4))
            assert {"name": "crc32c"} not in metadata["codecs"]
            assert bool(metadata.get("dimension_names")) == (file.parent.name == "latents")
    for file in path.glob(".tcae/commits/*.json"):
        assert "crc32c" not in json.loads(file.read_bytes())
    assert not (path / ".tcae" / "zarr.json").exists()
    one, two = arrays_of(path), arrays_of(new)
    assert all(one[name][:20].tobytes() == two[name].tobytes() for name in ("latents", "labels", "status", "crop"))
    assert np.array_equal(LatentStore(path).latents(range(20, 40)), known_latents(40)[20:])
