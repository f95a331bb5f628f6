"""A folder here and one in an object store keep the same promises."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs

from tcae_cli.errors import DiskError, UsageError
from tcae_cli.runtime import remote_folder
from tcae_cli.runtime.files import ReadError
from tcae_cli.runtime.folder import Folder, open_folder
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.runtime.remote_folder import RemoteFolder

Names = Callable[[], set[str]]


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An empty folder."""
    if request.param == "s3":
        return open_folder(f"{request.getfixturevalue('bucket')}/in/store.zarr")
    folder = open_folder(tmp_path / "store.zarr")
    folder.make()
    return folder


@pytest.fixture
def names(folder: Folder) -> Names:
    """All names in the folder, temporary ones too."""
    return lambda: set(folder.sizes())


def test_a_uri_says_which_kind_of_folder_it_is(bucket, tmp_path):
    assert isinstance(open_folder(tmp_path), LocalFolder)
    assert isinstance(open_folder(f"{bucket}/x"), RemoteFolder)
    for uri in ("http://host/store.zarr", "hf://datasets/org/name"):
        with pytest.raises(UsageError, match="can only be read; write the store to a local path, s3:// or gs://"):
            open_folder(uri)


def test_what_is_written_is_read_and_written_again(folder, names):
    folder.write({"a": b"one", "sub/b": b"", "sub/below/c": b"three"})
    assert [folder.read(name) for name in ("a", "sub/b", "sub/below/c")] == [b"one", b"", b"three"]
    folder.write({"a": b"another"})
    assert folder.read("a") == b"another" and names() == {"a", "sub/b", "sub/below/c"}


def test_what_is_not_there_is_not_found(folder):
    folder.write({"sub/b": b"x"})
    for name in ("a", "sub", "sub/c"):
        with pytest.raises(OSError):
            folder.read(name)
    for read in (folder.read, folder.modified, lambda name: folder.read_range(name, -2, 2)):
        with pytest.raises(FileNotFoundError):
            read("a")


def test_many_are_read_in_order_with_gaps_for_those_that_are_missing(folder):
    folder.write({f"{number:03}": str(number).encode() for number in range(0, 140, 2)})
    found = list(folder.read_many([f"{number:03}" for number in range(140, -1, -1)]))
    assert found == [None if number % 2 or number == 140 else str(number).encode() for number in range(140, -1, -1)]
    assert list(folder.read_many([])) == []


@pytest.mark.parametrize(
    ("start", "size", "expected"),
    [(0, 4, b"0123"), (6, 4, b"6789"), (6, 9, b"6789"), (-3, 3, b"789"), (-3, 2, b"78"), (-30, 5, b"01234")],
)
def test_parts_are_read_from_either_end(folder, start, size, expected):
    folder.write({"a": b"0123456789"})
    assert folder.read_range("a", start, size) == expected


def test_sizes_are_those_of_all_files_under_a_folder(folder):
    folder.write({"a": b"x", "sub/b": b"xx", "sub/below/c": b"xxx", "sub2/d": b"x" * 4})
    assert folder.sizes() == {"a": 1, "sub/b": 2, "sub/below/c": 3, "sub2/d": 4}
    assert folder.sizes("sub") == {"sub/b": 2, "sub/below/c": 3}
    assert folder.sizes("nothing") == {}


def test_files_behind_links_count_and_links_that_lead_nowhere_or_round_do_not(tmp_path):
    folder = open_folder(tmp_path / "store.zarr")
    folder.make()
    folder.write({"kept/a": b"x"})
    (tmp_path / "store.zarr/kept").rename(tmp_path / "elsewhere")
    for name, target in {"kept": "../elsewhere", "nowhere": "missing", "itself": "itself"}.items():
        (tmp_path / "store.zarr" / name).symlink_to(target)
    assert folder.sizes() == {"kept/a": 1}
    for name in "bcdefgh":
        (tmp_path / "store.zarr" / name).symlink_to(".")  # followed 40 folders deep, these would take years
    assert folder.sizes() == {"kept/a": 1}


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(tmp_path, monkeypatch, number):
    folder = open_folder(tmp_path / "store.zarr")
    folder.make()
    folder.write({"labels/c.0": b"x"})
    honest = os.scandir

    def failing(path):
        if str(path).endswith("labels"):
            raise OSError(number, os.strerror(number), str(path))
        return honest(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(ReadError, match=r"store.zarr/labels cannot be read: .*; put it right and repeat"):
        folder.sizes()
    assert folder.sizes("nothing") == {}


def test_a_folder_that_was_made_is_on_the_disk_with_its_parents(tmp_path, monkeypatch):
    synced, honest = set(), os.fsync

    def fsync(descriptor):
        synced.add(os.path.realpath(f"/proc/self/fd/{descriptor}"))
        honest(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    open_folder(tmp_path / "a/b/store.zarr").make()
    assert synced >= {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a/b")}


def test_times_are_those_of_the_last_writing(folder):
    folder.write({"first": b""})
    folder.write({"second": b""})
    assert 0 <= folder.modified("second") - folder.modified("first") < 60


def test_of_those_who_create_a_file_one_succeeds(folder, names):
    assert folder.create("sub/a", b"first")
    assert not folder.create("sub/a", b"second")
    assert folder.read("sub/a") == b"first" and names() == {"sub/a"}


def test_a_file_in_progress_is_not_visible_until_it_is_published(folder, names):
    folder.write({"latents/c.0": b"old"})
    file = folder.begin("latents/c.0")
    for part in (b"new ", b"and ", b"long"):
        file.write(part)
        assert folder.read("latents/c.0") == b"old"
    file.seal()
    assert folder.read("latents/c.0") == b"old"
    file.publish()
    assert folder.read("latents/c.0") == b"new and long"
    file.discard()  # of what is published there is nothing to drop
    assert folder.read("latents/c.0") == b"new and long" and names() == {"latents/c.0"}


@pytest.mark.parametrize("how_far", ["begun", "written", "sealed"])
def test_a_file_that_is_dropped_was_never_there(folder, names, how_far):
    file = folder.begin("latents/c.0")
    if how_far != "begun":
        file.write(b"some")
    if how_far == "sealed":
        file.seal()
    file.discard()
    file.discard()
    del file
    assert names() == set()


def test_a_local_file_is_put_and_fetched_again(folder, tmp_path):
    (tmp_path / "scratch").mkdir()
    for name, data in (("rows", b"\0\1" * 5000), ("summary.json", b"{}"), ("empty", b"")):
        (tmp_path / name).write_bytes(data)
        folder.put(tmp_path / name, f".tcae/index/abc/{name}")
    fetched = folder.fetch(".tcae/index/abc", ["empty", "missing", "rows", "summary.json"], tmp_path / "scratch")
    assert sorted(path.name for path in fetched.iterdir()) == ["empty", "rows", "summary.json"]
    assert (fetched / "rows").read_bytes() == b"\0\1" * 5000
    folder.put(tmp_path / "rows", ".tcae/index/abc/empty")
    assert folder.read(".tcae/index/abc/empty") == b"\0\1" * 5000


def test_removing_what_is_missing_does_no_harm(folder, names):
    folder.write({"a": b"", "sub/b": b"", "c": b""})
    folder.remove(["nothing", "a", "sub/nothing", "other/nothing", "sub/b"])
    assert names() == {"c"}


def test_a_folder_that_was_made_and_stayed_empty_goes_away(folder, names, tmp_path):
    again = open_folder(f"{folder.uri}/deeper")
    again.make()
    again.write({"sub/a": b""})
    again.remove_if_empty()
    assert names() == {"deeper/sub/a"}
    again.remove(["sub/a"])
    again.remove_if_empty()
    assert names() == set()
    assert not Path(folder.uri, "deeper").exists()


def test_each_process_marks_its_files_with_a_name_of_its_own(folder):
    assert folder.owner == open_folder(folder.uri).owner
    assert "." not in folder.owner and "/" not in folder.owner
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.write(writer, LocalFolder(Path()).owner.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100).decode() != folder.owner


def test_a_file_larger_than_a_part_of_an_upload_arrives_whole(bucket, monkeypatch):
    monkeypatch.setattr(remote_folder, "_PART_BYTES", 5 * 2**20)
    folder, parts = RemoteFolder(f"{bucket}/store.zarr"), [random.Random(n).randbytes(2**20) for n in range(12)]
    file = folder.begin("latents/c.0")
    for part in parts:
        file.write(part)
    held = file._file.buffer.tell()
    assert held <= 6 * 2**20  # what was written before has gone already
    assert folder.sizes() == {}
    file.publish()
    assert folder.read("latents/c.0") == b"".join(parts)
    assert folder.read_range("latents/c.0", -(2**20), 2**20) == parts[-1]


def test_a_large_upload_that_is_dropped_leaves_nothing_in_the_bucket(bucket, monkeypatch):
    monkeypatch.setattr(remote_folder, "_PART_BYTES", 5 * 2**20)
    file = RemoteFolder(f"{bucket}/store.zarr").begin("latents/c.0")
    file.write(bytes(11 * 2**20))
    store, name = s3fs.S3FileSystem(), bucket.removeprefix("s3://")
    assert store.call_s3("list_multipart_uploads", Bucket=name).get("Uploads")
    file.discard()
    assert not store.call_s3("list_multipart_uploads", Bucket=name).get("Uploads")
    assert store.find(name) == []


def test_a_prefix_that_fills_while_it_is_listed_is_no_file(bucket, monkeypatch):
    folder = RemoteFolder(f"{bucket}/store.zarr")
    folder.write({"a": b"x"})
    found = {folder._prefix: folder._files.info(folder._prefix)}  # what s3fs gives when it saw none and then one
    monkeypatch.setattr(folder._files, "find", lambda *_, **__: found)
    assert found[folder._prefix]["type"] == "directory" and folder.sizes() == {}


@pytest.mark.parametrize("conflicts", [3, 4])
def test_two_who_create_a_file_at_the_same_moment_try_again(bucket, monkeypatch, conflicts):
    folder, left = RemoteFolder(f"{bucket}/store.zarr"), [None] * conflicts
    monkeypatch.setattr(remote_folder, "_CONFLICT_WAITS_S", (0, 0, 0, 0))
    create = folder._files.pipe_file

    def conflict(*args, **kwargs) -> None:  # as s3fs raises it; moto takes one after the other
        if not left:
            return create(*args, **kwargs)
        left.pop()
        raise OSError(5, "An error occurred (ConditionalRequestConflict) when calling the PutObject operation: ...")

    monkeypatch.setattr(folder._files, "pipe_file", conflict)
    if conflicts == 3:
        assert folder.create("a", b"x") and folder.read("a") == b"x"
        assert not folder.create("a", b"x")
    else:
        with pytest.raises(DiskError, match=r"store.zarr/a cannot be written: others create it at the same moment"):
            folder.create("a", b"x")


def test_a_bucket_that_is_not_there_is_one_sentence(object_store):
    folder = RemoteFolder("s3://no-such-bucket/store.zarr")
    for write in (
        lambda: folder.write({"a": b""}),
        lambda: folder.create("a", b""),
        lambda: folder.begin("a").publish(),
    ):
        with pytest.raises(DiskError, match=r"^s3://no-such-bucket/store.zarr/a cannot be written: there is no such b"):
            write()
    with pytest.raises(FileNotFoundError):
        folder.read("a")
    assert folder.sizes() == {}
