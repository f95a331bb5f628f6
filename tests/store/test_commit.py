"""The commit protocol: what a kill leaves, and how repeating mends it."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr

from tcae_cli.store.commit import finalise, read_record, record_path, reopen_unless_whole
from tcae_cli.store.layout import is_complete
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.writer import StoreWriter

from .conftest import known_latents, write_shard


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_a_store_is_complete_only_when_every_shard_is_committed(make_store):
    path = make_store(shards=[0, 1])
    assert not finalise(path) and not is_complete(path)

    write_shard(StoreWriter(path), 2, known_latents(40), set())
    assert finalise(path) and is_complete(path)


def test_of_all_that_finish_one_completes_the_store(make_store):
    path = make_store(shards=[0, 1], failed={3})
    write_shard(StoreWriter(path), 2, known_latents(40), {3})
    with ThreadPoolExecutor(4) as ranks:
        answers = list(ranks.map(finalise, [path] * 4))

    assert sorted(answers) == [False, False, False, True]
    assert files_of(path) == files_of(make_store(name="whole.zarr", failed={3}))


def test_a_finish_that_was_cut_short_is_repeated(make_store):
    path, whole = make_store(name="cut.zarr"), make_store(name="whole.zarr")
    root = json.loads((path / "zarr.json").read_bytes())
    (path / "zarr.json").write_text(json.dumps(root | {"attributes": root["attributes"] | {"complete": False}}))
    shutil.rmtree(path / "failures" / "row")

    reopen_unless_whole(path)
    assert finalise(path)
    assert files_of(path) == files_of(whole)


def test_the_order_in_which_shards_come_changes_nothing(make_store):
    one, other = make_store(name="one.zarr", failed={3}), make_store(name="two.zarr", failed={3}, shards=[2, 0, 1])
    assert files_of(one) == files_of(other)


def test_an_unfinished_shard_is_invisible(make_store):
    path = make_store(shards=[0])
    write_shard(StoreWriter(path), 1, known_latents(40), set(), commit=False)

    assert StoreWriter(path).committed(range(3)) == {0}
    assert not list((path / ".tcae" / "part").iterdir())
    assert zarr.open_group(path, mode="r")["status"][16:32].tolist() == [0] * 16


@pytest.mark.parametrize("last_written", ["latents", "keys", "labels", "content_hash", "crop", "status"])
def test_a_kill_between_any_two_files_of_a_shard_is_mended_by_writing_it_again(make_store, last_written):
    path, whole = make_store(name="killed.zarr", failed={20}), make_store(name="whole.zarr", failed={20})
    writer = StoreWriter(path)
    files = writer.chunk_paths(1)
    names = list(files)
    record_path(path, 1).unlink()
    for name in names[names.index(last_written) + 1 :]:
        files[name].unlink()

    # Whoever reads now: a row whose status says ok has its latents.
    status = zarr.open_group(path, mode="r")["status"][:]
    latents = zarr.open_group(path, mode="r")["latents"][:]
    assert np.array_equal(latents[status == 1], known_latents(40)[status == 1])
    assert (status[16:32] == 1).any() == (last_written == "status")

    reopen_unless_whole(path)
    write_shard(writer, 1, known_latents(40), {20})
    assert finalise(path)
    assert files_of(path) == files_of(whole)


def test_rewriting_a_shard_takes_its_status_back_first(make_store):
    path = make_store()
    record_path(path, 1).unlink()
    StoreWriter(path).begin(1, keys=[], labels=np.zeros(0), captions=None).abandon()

    assert zarr.open_group(path, mode="r")["status"][:].tolist() == [1] * 16 + [0] * 16 + [1] * 8


def test_a_complete_store_that_lost_a_file_is_open_again(make_store):
    path = make_store()
    reopen_unless_whole(path)
    assert is_complete(path)

    (path / "latents" / "c.1.0.0.0").write_bytes(b"short")
    reopen_unless_whole(path)
    assert not is_complete(path)
    assert StoreWriter(path).committed(range(3)) == {0, 2}


def test_a_record_holds_sizes_and_checksums_of_its_files(make_store):
    path = make_store()
    record = read_record(path, 0)

    assert record.num_rows == record.num_ok == 16
    assert set(record.files) == {str(file.relative_to(path)) for file in StoreWriter(path).chunk_paths(0).values()}
    assert record.files["latents/c.0.0.0.0"].size == (path / "latents" / "c.0.0.0.0").stat().st_size


def test_what_kills_left_is_cleared_away_at_the_end(make_store):
    path = make_store(shards=[0, 1])
    (path / ".tcae" / "part" / "2.abc").write_bytes(b"half a shard")
    (path / "keys" / "c.2.0123.partial").write_bytes(b"half a chunk")
    write_shard(StoreWriter(path), 2, known_latents(40), set())
    finalise(path)

    assert not [name for name in files_of(path) if "partial" in name or "/part/" in name]


def test_a_store_survives_being_moved(make_store, tmp_path):
    shutil.move(make_store(), tmp_path / "elsewhere.zarr")
    assert np.array_equal(LatentStore(tmp_path / "elsewhere.zarr").latents([5]), known_latents(40)[[5]])
