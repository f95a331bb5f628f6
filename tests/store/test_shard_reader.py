"""How rows come from local shard files: from the page cache, from a disk that is asked for many, and when damaged."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import s3fs
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from tcae_cli.errors import StoreError
from tcae_cli.runtime.remote_folder import RemoteFolder
from tcae_cli.store import shard_reader
from tcae_cli.store.codecs.registry import CODECS
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.shard_file import crc32c_of
from tcae_cli.store.shard_reader import ShardReader

from ..web_server import serve_files
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


class There:
    """A store at an address, by fsspec: that of a bucket, or of the folder that a web server sends files of."""

    def __init__(self, uri: str, files: AbstractFileSystem, folder: str) -> None:
        self.uri, self._files, self._folder = uri, files, folder

    def put(self, path: Path) -> None:
        self._files.put(f"{path}/", f"{self._folder}/", recursive=True)

    def replace_shards(self, path: Path) -> None:
        """Put other shards in the place of those that are there, as whoever tries failed rows again does."""
        root = json.loads((path / "zarr.json").read_text())
        root["attributes"]["complete"] = False
        self._put_whole("zarr.json", json.dumps(root).encode())
        for shard in sorted((path / "latents").glob("c.*")):
            self._put_whole(f"latents/{shard.name}", shard.read_bytes())
        self._put_whole("zarr.json", (path / "zarr.json").read_bytes())

    def _put_whole(self, name: str, data: bytes) -> None:
        if isinstance(self._files, LocalFileSystem):
            Path(f"{self._folder}/part").write_bytes(data)
            os.replace(f"{self._folder}/part", f"{self._folder}/{name}")
        else:
            self._files.pipe_file(f"{self._folder}/{name}", data)


@pytest.fixture(params=["s3", "http"])
def there(request, tmp_path):
    if request.param == "s3":
        uri = f"{request.getfixturevalue('bucket')}/store.zarr"
        yield There(uri, s3fs.S3FileSystem(), uri)
    else:
        with serve_files(tmp_path / "web") as root:
            yield There(f"{root}/store.zarr", LocalFileSystem(auto_mkdir=True), f"{tmp_path}/web/store.zarr")


@pytest.mark.parametrize("codec", CODECS)
def test_rows_are_their_own_after_a_remote_shard_was_replaced_by_one_with_more_of_them(make_store, there, codec):
    there.put(make_store(failed={3, 17}, codec=codec))
    store = LatentStore(there.uri)
    assert np.isnan(store.latents([3])).all()
    store.latents(range(40))

    there.replace_shards(make_store(name="repaired.zarr", codec=codec))
    assert np.array_equal(store.latents(range(0, 40, 3)), known_latents(40)[::3])
    assert np.array_equal(store.latents([39, 16, 17]), known_latents(40)[[39, 16, 17]])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("moment", range(8))
def test_a_remote_shard_may_be_replaced_at_any_moment_of_a_read(make_store, there, monkeypatch, codec, moment):
    there.put(make_store(failed={1, 18}, codec=codec))
    repaired, read_range, num_reads = make_store(name="repaired.zarr", codec=codec), RemoteFolder.read_range, [0]
    rows = [0, 2, 15, 16, 39]

    def read_after_replacing(self, name, start, size):
        num_reads[0] += name.startswith("latents/")
        if num_reads[0] == moment + 1:
            there.replace_shards(repaired)
        return read_range(self, name, start, size)

    store = LatentStore(there.uri)
    monkeypatch.setattr(RemoteFolder, "read_range", read_after_replacing)
    assert np.array_equal(store.latents(rows), known_latents(40)[rows])
    assert num_reads[0] > moment


def test_rows_of_an_object_store_cost_one_look_at_its_root_more(make_store, bucket, monkeypatch):
    path, there = make_store(failed={20}), s3fs.S3FileSystem()
    there.put(str(path), f"{bucket}/store.zarr", recursive=True)
    store = LatentStore(f"{bucket}/store.zarr")
    store.latents(range(40))
    asked, call = [], s3fs.S3FileSystem._call_s3

    async def noting(self, method, *arguments, **options):
        asked.append((method, options["Key"].removeprefix("store.zarr/")[:11]))
        return await call(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", noting)
    store.latents([1, 2, 3, 16])
    rows = [("get_object", f"latents/c.{shard}") for shard in (0, 0, 0, 1)]
    # s3fs asks how large a whole object is before it reads it.
    assert sorted(asked) == sorted([*rows, ("head_object", "zarr.json"), ("get_object", "zarr.json")])


def test_a_remote_shard_that_is_damaged_is_named(make_store, bucket):
    path, there = make_store(codec="none"), s3fs.S3FileSystem()
    there.put(str(path), f"{bucket}/store.zarr", recursive=True)
    store, name = LatentStore(f"{bucket}/store.zarr"), f"{bucket}/store.zarr/latents/c.1.0.0.0"
    store.latents(range(40))
    data = bytearray((path / "latents/c.1.0.0.0").read_bytes())
    data[0] ^= 1
    there.pipe_file(name, bytes(data))
    with pytest.raises(StoreError, match=r"c\.1\.0\.0\.0: the latents of row 16 are damaged"):
        store.latents(range(40))
