"""How rows come from local shard files: from the page cache, from a disk that is asked for many, and when damaged."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import s3fs

from tcae_cli.errors import StoreError
from tcae_cli.store import shard_reader
from tcae_cli.store.codecs.registry import CODECS
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.shard_file import crc32c_of
from tcae_cli.store.shard_reader import ShardReader

from .conftest import known_latents


@pytest.fixture
def always_waiting(monkeypatch) -> list[str]:
    """A file system that reads nothing without waiting for the disk; what was done of "ask" and "wait"."""
    done, read, advise = [], os.preadv, os.posix_fadvise

    def preadv(descriptor, pieces, offset, flags=0):
        if flags:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        done.append("wait")
        return read(descriptor, pieces, offset)

    def posix_fadvise(*advice):
        if advice[-1] == os.POSIX_FADV_WILLNEED:
            done.append("ask")
        advise(*advice)

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(os, "posix_fadvise", posix_fadvise)
    return done


@pytest.mark.parametrize("codec", CODECS)
def test_rows_that_are_not_in_the_page_cache_are_read_from_the_disk(make_store, codec):
    path = make_store(failed={17}, codec=codec)
    store, rows = LatentStore(path), [39, 3, 17, 3]
    before = store.latents(rows)
    for file in path.glob("latents/c.*"):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    assert np.array_equal(store.latents(rows), before, equal_nan=True)


@pytest.mark.parametrize("codec", CODECS)
def test_a_file_system_that_does_not_tell_what_it_has_in_memory_serves_too(make_store, codec, always_waiting):
    store = LatentStore(make_store(codec=codec))

    assert np.array_equal(store.latents([39, 3, 17, 3]), known_latents(40)[[39, 3, 17, 3]])


def test_a_disk_is_asked_for_all_rows_before_the_first_is_waited_for(make_store, always_waiting):
    LatentStore(make_store()).latents(range(40))

    assert always_waiting == ["ask"] * 40 + ["wait"] * 40


def test_more_rows_than_a_disk_is_asked_for_together_keep_few_files_open(make_store, always_waiting, monkeypatch):
    monkeypatch.setattr(shard_reader, "_READS_TOGETHER", 2)
    monkeypatch.setattr(shard_reader, "_MOST_SHARDS_OPEN", 2)
    path = make_store(num_rows=256)  # 16 shards
    store, num_open = LatentStore(path), []

    def watched(descriptor, *advice):
        links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        num_open.append(sum(link.is_relative_to(path) for link in links))

    monkeypatch.setattr(os, "posix_fadvise", watched)
    assert np.array_equal(store.latents(range(0, 256, 16)), known_latents(256)[::16])
    assert len(num_open) == 16 and max(num_open) <= 5


@pytest.mark.parametrize("codec", CODECS)
def test_advice_that_is_not_taken_costs_nothing(make_store, codec, always_waiting, monkeypatch):
    def refuse(*advice):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    assert np.array_equal(LatentStore(make_store(codec=codec)).latents([21]), known_latents(40)[[21]])


@pytest.mark.parametrize(
    ("place", "reason"),
    [((0, 40), "their CRC-32C does not match"), ((2**40, 48), "the file ends within them")],
    ids=str,
)
def test_an_uncompressed_row_of_another_size_and_one_beyond_the_file_are_named(make_store, place, reason):
    path = make_store(codec="none")
    shard = path / "latents" / "c.1.0.0.0"
    data = shard.read_bytes()
    index = np.frombuffer(data[-16 * 16 - 4 : -4], "<u8").reshape(16, 2).copy()
    index[4] = place
    shard.write_bytes(data[: -16 * 16 - 4] + index.tobytes() + crc32c_of(index.tobytes()).to_bytes(4, "little"))

    assert np.array_equal(LatentStore(path).latents([21]), known_latents(40)[[21]])
    with pytest.raises(StoreError, match=rf"latents/c\.1\.0\.0\.0: the latents of row 20 are damaged \({reason}"):
        LatentStore(path).latents([20])


def test_a_shard_of_an_object_store_is_opened_once_for_all_of_its_rows(make_store, bucket, monkeypatch):
    s3fs.S3FileSystem().put(str(make_store()), f"{bucket}/store.zarr", recursive=True)
    opened, open_shard = [], ShardReader._open
    monkeypatch.setattr(
        ShardReader, "_open", lambda self, number, edition: opened.append(number) or open_shard(self, number, edition)
    )
    latents = LatentStore(f"{bucket}/store.zarr").latents(range(40))
    assert np.array_equal(latents, known_latents(40)) and sorted(opened) == [0, 1, 2]
