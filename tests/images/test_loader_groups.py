"""Batches from a source that is read in groups of rows: one process reads for its workers, each group once."""

import multiprocessing
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tcae_cli.errors import SourceError
from tcae_cli.images import watchdog
from tcae_cli.images.loader import BatchRows, ImageBatch, Reading, load_batches
from tcae_cli.images.transform import Transform
from tcae_cli.sources.parquet_reader import GroupReader
from tcae_cli.sources.scan import open_source
from tcae_cli.sources.source import Source

pytestmark = pytest.mark.alone

BATCHES = [BatchRows(range(0, 3)), BatchRows(range(3, 6), (3, 5)), BatchRows(range(6, 9)), BatchRows(range(9, 10))]


@pytest.fixture
def table(tmp_path: Path, png) -> Path:
    """Ten images, of which one is no image and one is missing, in row groups of four."""
    images = [{"bytes": png(40 + row, 60, seed=row), "path": f"{row}.png"} for row in range(10)]
    images[3]["bytes"] = b"oops"
    images[7] = {"bytes": None, "path": None}
    pq.write_table(pa.table({"image": images}), tmp_path / "photos.parquet", row_group_size=4)
    return tmp_path / "photos.parquet"


@pytest.fixture
def groups_read(monkeypatch) -> list[int]:
    """The row groups that this process reads, in order."""
    groups: list[int] = []
    keep = GroupReader._keep
    monkeypatch.setattr(
        GroupReader, "_keep", lambda reader, file, group: (groups.append(group), keep(reader, file, group))
    )
    return groups


def load(source: Source, num_workers: int) -> list[ImageBatch]:
    return list(load_batches(source, BATCHES, Transform.square(32, "torch"), Reading(3, num_workers)))


def assert_equal(found: list[ImageBatch], expected: list[ImageBatch]) -> None:
    assert [batch.rows for batch in found] == [batch.rows for batch in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one.images[0] == other.images[0]).all() and one.failures == other.failures and one.todo == other.todo
        assert (one.content_hashes == other.content_hashes).all()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_get_what_this_process_reads_and_it_reads_each_group_once(table, tmp_path, groups_read, num_workers):
    source = open_source(str(table), tmp_path / "index")
    expected = load(source, num_workers=0)
    assert {row: failure.stage for batch in expected for row, failure in batch.failures.items()} == {
        3: "decode",
        7: "read",
    }
    groups_read.clear()
    assert_equal(load(open_source(str(table), tmp_path / "index"), num_workers), expected)
    assert groups_read == [0, 1, 2]


def test_a_source_that_is_slow_to_read_is_waited_for(table, tmp_path, soon, monkeypatch):
    monkeypatch.setattr(watchdog, "HUNG_AFTER_S", 0.3)
    expected = load(open_source(str(table), tmp_path / "index"), num_workers=0)
    keep = GroupReader._keep
    monkeypatch.setattr(GroupReader, "_keep", lambda reader, file, group: (time.sleep(1.5), keep(reader, file, group)))
    assert_equal(load(open_source(str(table), tmp_path / "index"), num_workers=1), expected)


def test_the_files_of_a_batch_outlive_the_worker_that_had_them(table, tmp_path, soon, groups_read):
    source = open_source(str(table), tmp_path / "index")
    expected = load(source, num_workers=0)
    groups_read.clear()
    batches = load_batches(source, BATCHES, Transform.square(32, "torch"), Reading(3, 2))
    found = [next(batches)]
    for worker in multiprocessing.active_children():
        worker.kill()
    assert_equal([*found, *batches], expected)
    assert groups_read == [0, 1, 2]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_table_that_vanishes_ends_the_reading_in_a_sentence(table, tmp_path, num_workers):
    source = open_source(str(table), tmp_path / "index")
    table.unlink()
    with pytest.raises(SourceError, match=r"photos\.parquet no longer exists; put it back"):
        load(source, num_workers)
