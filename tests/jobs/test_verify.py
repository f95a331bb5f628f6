"""`tcae verify`: what is damaged is found and named, what is sound passes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from tcae_cli.jobs.verify import verify_store
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.store import VerifyReport, VerifyRequest
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.record import FileRecord, ShardRecord, record_file, record_name
from tcae_cli.store.shard_file import ShardFileWriter, crc32c_of
from tcae_cli.store.shard_reader import ShardReader

from ..store_contents import change_metadata


@pytest.fixture
def source(photos, tmp_path) -> Path:
    """A copy of the photographs that a test may change."""
    return shutil.copytree(photos, tmp_path / "photos")


@pytest.fixture
def store(source, tmp_path, encode) -> Path:
    """24 rows in 2 shards, of which row 1 has failed."""
    (source / "animal" / "1.jpg").write_bytes(b"not an image")
    encode(source, tmp_path / "store.zarr", max_failures="5%", flip=True)
    return tmp_path / "store.zarr"


def verify(store: Path | str, num_rows: int = 0, **options) -> VerifyReport:
    request = VerifyRequest(store=str(store), num_rows=num_rows, device="cpu", **options)
    return verify_store(request, Silent())


def change_bytes(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def change_record(store: Path, shard: int, **changes) -> None:
    path = store / record_name(shard)
    record = ShardRecord.model_validate_json(path.read_bytes()).model_copy(update=changes)
    path.write_bytes(record_file(StoreHandle(LocalFolder(store)).spec, record)[record_name(record.shard)])


def make_checksum_right(store: Path, shard: int, name: str) -> None:
    record = ShardRecord.model_validate_json((store / record_name(shard)).read_bytes())
    data = (store / name).read_bytes()
    change_record(store, shard, files={**record.files, name: FileRecord(size=len(data), crc32c=crc32c_of(data))})


def change_attributes(store: Path, change) -> None:
    change_metadata(store / "zarr.json", lambda root: change(root["attributes"]))


def write_latents(store: Path, view: str, shard: int, rows: list[int | None]) -> None:
    """Give a shard the latents of these rows, and a record that fits."""
    folder = LocalFolder(store)
    spec, name = StoreHandle(folder).spec, f"{view}/c.{shard}.0.0.0"
    reader = ShardReader(folder, spec, view)
    chunks = [None if row is None else reader.chunk(row) for row in rows]
    writer = ShardFileWriter(folder.begin(name), spec.rows_per_shard)
    for chunk in chunks:
        writer.append(chunk)
    writer.seal()
    writer.publish()
    make_checksum_right(store, shard, name)


@pytest.mark.parametrize("options", [{}, {"dtype": "int8"}, {"codec": "none"}, {"codec": "lz4-bitshuffle"}], ids=str)
def test_a_sound_store_passes(photos, tmp_path, encode, options):
    encode(photos, tmp_path / "store.zarr", **options)
    report = verify(tmp_path / "store.zarr", 24, source=str(photos), picture=tmp_path / "picture.png")

    assert (report.problems, report.not_checked, report.exit_code) == ([], [], 0)
    assert (report.num_shards_checked, report.num_ok, report.num_failed, report.num_compared) == (2, 24, 0, 24)
    assert report.num_files == 2 * 7 and report.num_bytes > 1000  # latents and six arrays beside them
    assert len(report.sample) == 24


def test_a_store_with_failed_rows_and_views_passes(store, source):
    report = verify(store, source=str(source))
    assert (report.problems, report.num_ok, report.num_failed) == ([], 23, 1)


def test_all_records_to_remove_are_reported_of_which_the_first_are_printed(make_folder, png, encode, tcae, tmp_path):
    path, data = tmp_path / "store.zarr", png()
    encode(make_folder({f"{number:03}.png": data for number in range(12 * 16)}), path)
    for shard in range(12):
        (path / f"labels/c.{shard}").unlink()
    _, printed, _ = tcae("verify", path, "--rows", 0)
    assert f".tcae/commits/000009.json, ... in {path}" in printed and "000010" not in printed.split("to mend")[1]
    assert "12 records are to be removed; damaged_records of --json lists all of them" in printed
    assert len(verify(path).damaged_records) == 12


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("codec", ["zstd", "none", "lz4-bitshuffle"])
def test_a_flipped_byte_of_latents_is_found(photos, tmp_path, encode, codec, dtype):
    encode(photos, tmp_path / "store.zarr", codec=codec, dtype=dtype)
    change_bytes(tmp_path / "store.zarr" / "latents" / "c.1.0.0.0", 20)
    report = verify(tmp_path / "store.zarr")

    assert report.exit_code == 1
    assert report.problems[0].startswith("latents/c.1.0.0.0 has been changed: its CRC-32C is ")
    assert report.damaged_records == [".tcae/commits/000001.json"]
    assert report.problems[1].startswith("latents/c.1.0.0.0: the latents of row 16 are damaged")
    assert report.num_problems == 2


def test_a_flipped_byte_of_the_index_of_a_shard_is_found(store):
    change_bytes(store / "latents_flip" / "c.0.0.0.0", -30)
    problems = verify(store).problems
    assert len(problems) == 2
    assert problems[0].startswith("latents_flip/c.0.0.0.0 has been changed")
    assert problems[1] == "latents_flip/c.0.0.0.0 is damaged: its index does not match its checksum"


def test_a_flipped_byte_beside_the_latents_is_found(store):
    for array in ("keys", "content_hash", "crop"):
        path = next((store / array).glob("c.1*"))
        change_bytes(path, 5)
        report = verify(store)
        assert len(report.problems) == 1
        assert report.problems[0].startswith(f"{path.relative_to(store)} has been changed")
        change_bytes(path, 5)
    assert verify(store).problems == []


@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_a_truncated_shard_is_found(photos, tmp_path, encode, codec):
    encode(photos, tmp_path / "store.zarr", codec=codec)
    path = tmp_path / "store.zarr" / "latents" / "c.0.0.0.0"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 100)
    assert verify(tmp_path / "store.zarr").problems[0] == (
        f"latents/c.0.0.0.0 has {size - 100:,} bytes, {size:,} were committed"
    )


def test_missing_files_are_found(store):
    (store / "latents" / "c.0.0.0.0").unlink()
    (store / "status" / "c.1").unlink()
    (store / "labels" / "zarr.json").unlink()
    (store / "statistics" / "latents" / "channel_std" / "zarr.json").unlink()
    problems = verify(store).problems
    assert problems[:3] == [
        "labels/zarr.json is missing; repeat tcae encode-dataset, which writes it again",
        "latents/c.0.0.0.0 is missing",
        "status/c.1 is missing",
    ]
    assert len(problems) == 4 and problems[3].startswith("statistics/latents/channel_std cannot be read")


def test_a_missing_record_of_a_complete_store_is_found(store):
    (store / record_name(1)).unlink()
    assert verify(store).problems == [
        ".tcae/commits/000001.json is missing, though the store is complete; repeat tcae encode-dataset"
    ]


def test_a_damaged_record_is_found(store):
    (store / record_name(1)).write_text("{}")
    problems = verify(store).problems
    assert len(problems) == 1 and ".tcae/commits/000001.json is damaged; remove it and repeat" in problems[0]

    change_record(store, 0, statistics={"latents": {"num_rows": 15}})
    assert ".tcae/commits/000000.json: its statistics are damaged" in verify(store).problems

    shutil.copy(store / record_name(0), store / record_name(1))
    assert ".tcae/commits/000001.json: its counts of rows do not add up" in verify(store).problems


def test_a_changed_status_is_found(store):
    status = zarr.open_array(store / "status", mode="r+")
    status[[1, 5]] = 1, 2
    report = verify(store)
    assert len(report.problems) == 1 and report.problems[0] == "status/c.0 has 26 bytes, 22 were committed"

    make_checksum_right(store, 0, "status/c.0")
    assert verify(store).problems == ["status/c.0: row 1 is ok, its record says failed, and 1 more differ"]


def test_rows_that_hold_what_they_should_not_are_found(store):
    rows = list(range(16))
    write_latents(store, "latents", 0, [0, 0, 2, None, *rows[4:]])
    assert verify(store).problems == [
        "latents/c.0.0.0.0: row 1 has latents and is not ok",
        "latents/c.0.0.0.0: row 3 is ok and has no latents",
    ]


def test_latents_that_are_not_finite_are_found(photos, tmp_path, encode):
    encode(photos, tmp_path / "store.zarr", codec="none")
    path = tmp_path / "store.zarr" / "latents" / "c.0.0.0.0"
    with path.open("r+b") as file:
        file.seek(2 * 68)  # row 2: 8 x 2 x 2 float16 and their CRC-32C
        latents = np.array([np.nan], np.float16).tobytes() + file.read(64)[2:]
        file.seek(2 * 68)
        file.write(latents + crc32c_of(latents).to_bytes(4, "little"))
    make_checksum_right(tmp_path / "store.zarr", 0, "latents/c.0.0.0.0")
    assert verify(tmp_path / "store.zarr").problems == ["latents/c.0.0.0.0: the latents of row 2 are not finite"]


def test_statistics_that_are_not_those_of_the_latents_are_found(store):
    write_latents(store, "latents", 0, [0, None, *[2] * 14])
    problems = verify(store).problems
    assert problems == [".tcae/commits/000000.json: channel_mean of latents is not that of the latents stored"]


def test_wrong_statistics_of_the_store_are_found(store):
    def change(attributes):
        attributes["statistics"]["latents"]["channel_std"][3] *= 1 + 1e-9
        attributes["statistics"]["latents_flip"]["num_rows"] = 24
        attributes["rows"]["ok"] = 24

    change_attributes(store, change)
    array = zarr.open_array(store / "statistics" / "latents" / "position_max", mode="r+")
    array[1, 1] = 7.0
    assert sorted(verify(store).problems) == [
        "statistics/latents/position_max is not that of the latents stored",
        "zarr.json: rows.ok is 24, the records of the shards say 23",
        "zarr.json: statistics.latents.channel_std is not that of the latents stored",
        "zarr.json: statistics.latents_flip.num_rows is not that of the latents stored",
    ]


def test_a_failures_table_that_differs_is_found(store):
    stage = zarr.open_array(store / "failures" / "stage", mode="r+")
    stage[0] = "read"
    assert verify(store).problems == ["failures: what it says of row 1 is not what its shard's record says"]


def test_an_array_described_otherwise_is_found(store):
    path = store / "latents" / "zarr.json"
    before = path.read_text()
    path.write_text(before.replace('"level": 1', '"level": 3'))
    assert verify(store).problems == [
        "latents/zarr.json is damaged; remove it and repeat tcae encode-dataset, which writes it again"
    ]

    for place, key, value in (("", "shape", [99, 8, 2, 2]), ("", "fill_value", 0.0), ("attributes", "size", 65)):
        path.write_text(before)
        change_metadata(path, lambda metadata, at=place, new={key: value}: metadata.get(at, metadata).update(new))
        assert verify(store).problems == [
            f"latents/zarr.json: its {key} is not what the store's root describes",
            "zarr.json: its copy of latents/zarr.json is not the same",
        ]


def test_an_incomplete_store_is_sound_so_far(store):
    (store / record_name(1)).unlink()
    change_attributes(store, lambda attributes: attributes.update(complete=False, statistics=None))
    report = verify(store)
    assert (report.problems, report.complete, report.exit_code) == ([], False, 0)
    assert (report.num_shards_checked, report.num_shards, report.num_ok) == (1, 2, 15)

    change_bytes(store / "latents" / "c.0.0.0.0", 3)
    assert verify(store).exit_code == 1


def test_a_shard_whose_files_were_being_replaced_is_sound(store):
    """Killed between the first file and the last: each file is the old one or the new one."""
    record = ShardRecord.model_validate_json((store / record_name(0)).read_bytes())
    old = {name: FileRecord(size=1, crc32c=1) for name in record.files if name.startswith("latents")}
    change_record(store, 0, files={**record.files, **old}, replacing=record.files)
    change_attributes(store, lambda attributes: attributes.update(complete=False, statistics=None))
    assert verify(store).problems == []


def test_a_store_that_is_appended_to_while_it_is_checked_is_sound(store, source, encode):
    class Appending(Silent):
        num_checked = 0

        def advance(self, count: int = 1, failed: int = 0, note: str = "") -> None:
            self.num_checked += count
            if self.num_checked == 24:
                shutil.copy(source / "thing" / "0.jpg", source / "thing" / "9.jpg")
                encode(source, store, append=True, flip=True, max_failures="5%")

    request = VerifyRequest(store=str(store), source=str(source), num_rows=0, device="cpu")
    report = verify_store(request, Appending())
    assert report.problems == [] and report.num_rows == 24 and report.num_compared == 23
    assert report.not_checked == ["the statistics and the failures: the store was reopened meanwhile"]


def test_a_store_in_an_object_store_is_verified(photos, bucket, encode, tmp_path):
    encode(photos, f"{bucket}/store.zarr")
    report = verify(f"{bucket}/store.zarr", 4, source=str(photos), picture=tmp_path / "a.png")
    assert (report.problems, report.num_shards_checked, len(report.sample)) == ([], 2, 4)


def test_a_store_without_a_row_that_is_ok_is_sound(tmp_path, encode):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(b"not an image")
    encode(tmp_path / "photos", tmp_path / "store.zarr")
    report = verify(tmp_path / "store.zarr", 4, source=str(tmp_path / "photos"))
    assert (report.problems, report.num_ok, report.num_failed, report.sample) == ([], 0, 3, [])
