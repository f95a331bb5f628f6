"""The commit protocol: what a kill leaves, and how repeating mends it."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr

from tcae_cli.reports.failure import REPAIRED
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.store.commit import (
    append_rows,
    clear_leftovers,
    finalise,
    remove_old_indexes,
    reopen_failed,
    reopen_unless_whole,
    settle_repaired,
)
from tcae_cli.store.handle import StoreHandle, fit_arrays
from tcae_cli.store.layout import shard_file
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.record import ShardRecord, record_name
from tcae_cli.store.spec import SourceIdentity
from tcae_cli.store.writer import StoreWriter

from .conftest import WITH_POSTERIOR, known_latents, spec_of, values_of, write_shards

WRITE_ORDER = ["latents", "keys", "labels", "content_hash", "original_size", "crop", "status"]


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def opened(path: Path) -> StoreHandle:
    return StoreHandle(LocalFolder(path))


def record_of(path: Path, shard: int) -> ShardRecord:
    return ShardRecord.model_validate_json((path / record_name(shard)).read_bytes())


def committed(path: Path) -> set[int]:
    return set(range(3)) - {plan.shard for plan in StoreWriter(opened(path)).plan(range(3))}


def assert_ok_rows_are_right(path: Path) -> np.ndarray:
    """As a plain zarr reader sees them; gives the status of all rows."""
    group, spec = zarr.open_group(path, mode="r"), opened(path).spec
    status = group["status"][:]
    ok = np.flatnonzero(status == 1)
    for array in spec.latent_arrays:
        expected = values_of(spec, array, known_latents(len(status)))
        assert np.array_equal(group[array][:][ok], expected[ok])
    return status


class Kill(BaseException):
    """Nothing after it is done."""


def die_at(monkeypatch, number: int, *methods: str) -> None:
    """The number-th call of these methods of a local folder is the last thing that does not happen."""
    calls = iter(range(10**6))

    def dying(method):
        def call(self, *args, **options):
            if next(calls) >= number:
                raise Kill
            return method(self, *args, **options)

        return call

    for name in methods:
        monkeypatch.setattr(LocalFolder, name, dying(getattr(LocalFolder, name)))


def test_a_store_is_complete_only_when_every_shard_is_committed(make_store):
    path = make_store(shards=[0, 1])
    assert not finalise(opened(path)) and not opened(path).is_complete

    write_shards(path, [2])
    assert finalise(opened(path)) and opened(path).is_complete


def test_of_all_that_finish_one_completes_the_store(make_store):
    path = make_store(shards=[0, 1], failed={3})
    write_shards(path, [2], {3})
    with ThreadPoolExecutor(4) as ranks:
        answers = list(ranks.map(finalise, [opened(path) for _ in range(4)]))

    assert sorted(answers) == [False, False, False, True]
    assert files_of(path) == files_of(make_store(name="whole.zarr", failed={3}))


@pytest.mark.parametrize("number", range(6))
def test_a_finish_that_was_cut_short_is_repeated(make_store, monkeypatch, number):
    path, whole = make_store(name="cut.zarr", shards=[0, 1], failed={3}), make_store(name="whole.zarr", failed={3})
    write_shards(path, [2])
    with monkeypatch.context() as patch, pytest.raises(Kill):
        die_at(patch, number, "write", "remove", "create")
        finalise(opened(path))
        raise Kill  # the last number is past the end

    reopen_unless_whole(opened(path))
    assert finalise(opened(path)) or opened(path).is_complete
    assert files_of(path) == files_of(whole)


def test_the_order_in_which_shards_come_changes_nothing(make_store):
    one, other = make_store(name="one.zarr", failed={3}), make_store(name="two.zarr", failed={3}, shards=[2, 0, 1])
    assert files_of(one) == files_of(other)


def test_an_unfinished_shard_is_invisible(make_store):
    path = make_store(shards=[0])
    write_shards(path, [1], commit=False)

    assert committed(path) == {0}
    assert not list((path / ".tcae" / "part").iterdir())
    assert assert_ok_rows_are_right(path)[16:32].tolist() == [0] * 16


@pytest.mark.parametrize("last_written", WRITE_ORDER)
def test_a_kill_between_any_two_files_of_a_shard_is_mended_by_writing_it_again(make_store, last_written):
    path, whole = make_store(name="killed.zarr", failed={20}), make_store(name="whole.zarr", failed={20})
    (path / record_name(1)).unlink()
    for name in WRITE_ORDER[WRITE_ORDER.index(last_written) + 1 :]:
        (path / shard_file(spec_of(40), name, 1)).unlink()

    assert (assert_ok_rows_are_right(path)[16:32] == 1).any() == (last_written == "status")
    reopen_unless_whole(opened(path))
    assert write_shards(path, range(3), {20}) == list(range(16, 32))
    finalise(opened(path))
    assert_same_but_generation(path, whole)


def assert_same_but_generation(path: Path, whole: Path) -> None:
    """Equal to the bit, apart from how often the store was completed."""
    one, other = files_of(path), files_of(whole)
    for files in (one, other):
        root = json.loads(files.pop("zarr.json"))
        del root["attributes"]["generation"], root["attributes"]["seal"]
        files["zarr.json"] = root
    assert {name for name in one if "finished" not in name} == {name for name in other if "finished" not in name}
    assert all(one[name] == other[name] for name in one if "finished" not in name)


def test_writing_a_shard_again_takes_its_status_back_first(make_store):
    path = make_store()
    (path / record_name(1)).unlink()
    write_shards(path, [1], commit=False)

    assert zarr.open_group(path, mode="r")["status"][:].tolist() == [1] * 16 + [0] * 16 + [1] * 8


def test_a_complete_store_that_lost_a_file_is_open_again(make_store):
    path = make_store()
    reopen_unless_whole(opened(path))
    assert opened(path).is_complete

    (path / "latents" / "c.1.0.0.0").write_bytes(b"short")
    reopen_unless_whole(opened(path))
    assert not opened(path).is_complete
    assert committed(path) == {0, 2}


def test_a_record_holds_sizes_and_checksums_of_its_files(make_store):
    path = make_store()
    record = record_of(path, 0)

    assert record.num_rows == record.num_ok == 16
    assert set(record.files) == {shard_file(spec_of(40), name, 0) for name in WRITE_ORDER}
    assert record.files["latents/c.0.0.0.0"].size == (path / "latents" / "c.0.0.0.0").stat().st_size


def test_temporary_files_of_the_dead_go_and_those_of_the_living_stay(make_store):
    path = make_store(shards=[0, 1])
    alive, dead, users = "0123456789ab-1.0123456789ab", "0123456789ab-22.0123456789ab", "thesis.txt"
    for name in (alive, dead, users):
        (path / ".tcae" / "part" / name).write_bytes(b"half a shard")

    clear_leftovers(LocalFolder(path), lambda: {"0123456789ab-1"})
    assert [name for name in files_of(path) if "/part/" in name] == [f".tcae/part/{alive}", f".tcae/part/{users}"]


def test_a_process_that_joins_while_leftovers_are_cleared_keeps_its_files(make_store):
    path = make_store(shards=[0, 1])
    own = path / ".tcae" / "part" / "0123456789ab-333.0123456789ab"

    def join_meanwhile() -> set[str]:
        own.write_bytes(b"half a shard")
        return set()

    clear_leftovers(LocalFolder(path), join_meanwhile)
    assert own.exists()


def test_an_index_that_no_root_names_is_removed(make_store):
    path = make_store()
    for fingerprint in ("cd" * 16, "ef" * 16):
        (path / ".tcae" / "index" / fingerprint).mkdir(parents=True)
        (path / ".tcae" / "index" / fingerprint / "index.json").write_text("{}")

    remove_old_indexes(opened(path))
    assert [name for name in files_of(path) if "/index/" in name] == [f".tcae/index/{'cd' * 16}/index.json"]


def test_a_store_survives_being_moved(make_store, tmp_path):
    shutil.move(make_store(), tmp_path / "elsewhere.zarr")
    assert np.array_equal(LatentStore(tmp_path / "elsewhere.zarr").latents([5]), known_latents(40)[[5]])


def grow(path: Path, num_rows: int) -> None:
    store = opened(path)
    source = store.spec.source.model_copy(update={"count": num_rows, "fingerprint": "ef" * 16})
    append_rows(store, SourceIdentity(**source.model_dump()))
    fit_arrays(store)


def test_appended_rows_are_encoded_and_no_other(make_store):
    path = make_store(failed={3, 36})  # 40 rows: the last shard holds 8 of 16
    grow(path, 61)
    assert not opened(path).is_complete
    assert assert_ok_rows_are_right(path)[40:].tolist() == [0] * 21

    assert write_shards(path, range(4), {3, 36}) == list(range(40, 61))
    finalise(opened(path))
    whole = make_store(61, failed={3, 36}, name="whole.zarr", source=opened(path).spec.source)
    assert_same_but_generation(path, whole)


def test_failed_rows_are_tried_again_and_no_other(make_store):
    path = make_store(failed={3, 5, 36})
    assert reopen_failed(opened(path), range(3)) == 3
    assert not opened(path).is_complete

    assert write_shards(path, range(3), {5}) == [3, 5, 36]
    finalise(opened(path))
    assert [failure["row"] for failure in LatentStore(path).failures()] == [5]
    assert_same_but_generation(path, make_store(failed={5}, name="whole.zarr"))


def test_failed_rows_that_no_longer_count_are_not_tried_again(make_store):
    path = make_store(failed={3, 36, 37})
    store = opened(path)
    reopen_failed(store, range(3))
    settle_repaired(store, range(3), lambda row: REPAIRED if row < 37 else "")
    assert committed(path) == {0, 1}

    assert write_shards(path, range(3), {37}) == [37]
    assert finalise(opened(path))
    assert [(row["row"], row["stage"]) for row in LatentStore(path).failures()] == [
        (3, "repaired"),
        (36, "repaired"),
        (37, "decode"),
    ]


def test_with_nothing_failed_a_complete_store_stays_complete(make_store):
    path = make_store()
    assert reopen_failed(opened(path), range(3)) == 0
    assert opened(path).is_complete


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize(("what", "changes"), [("append", {}), ("retry", {}), ("retry", WITH_POSTERIOR)])
def test_a_kill_while_a_shard_is_taken_up_again_loses_no_row_that_was_ok(
    make_store, monkeypatch, what, changes, number
):
    path = make_store(failed={3, 36}, name="killed.zarr", **changes)
    before = assert_ok_rows_are_right(path)
    if what == "append":
        grow(path, 48)  # one shard, as its last one
        expected_rows, failed = list(range(40, 48)), {3, 36}
    else:
        reopen_failed(opened(path), range(3))
        expected_rows, failed = [3, 36], set()
    with monkeypatch.context() as patch, pytest.raises(Kill):
        die_at(patch, number, "write", *["begin"][: not changes])  # one of two that were begun would stay open
        write_shards(path, range(3), failed)
        raise Kill

    assert (assert_ok_rows_are_right(path)[:40] >= before * (before == 1)).all()
    assert set(write_shards(path, range(3), failed)) <= set(expected_rows)
    finalise(opened(path))
    source = LatentStore(path).spec.source
    whole = make_store(len(LatentStore(path)), failed=failed, name="whole.zarr", source=source, **changes)
    assert_same_but_generation(path, whole)


def test_a_kept_row_that_is_damaged_is_named_with_the_way_out(make_store):
    path = make_store(failed={3})
    reopen_failed(opened(path), range(3))
    shard = path / "latents" / "c.0.0.0.0"
    data = bytearray(shard.read_bytes())
    data[3] ^= 0xFF
    shard.write_bytes(data)

    with pytest.raises(Exception, match=r"latents of row 0 are damaged .*; remove .*000000\.json and repeat"):
        write_shards(path, [0])
    (path / record_name(0)).unlink()
    assert write_shards(path, [0]) == list(range(16))


def test_an_append_that_was_killed_before_the_arrays_grew_goes_on(make_store):
    path = make_store()
    store = opened(path)
    append_rows(store, store.spec.source.model_copy(update={"count": 48}))
    with pytest.warns(UserWarning, match="not complete"):
        assert LatentStore(path).status().tolist() == [1] * 40 + [0] * 8

    fit_arrays(store)
    assert write_shards(path, range(3)) == list(range(40, 48))
    assert finalise(store)
