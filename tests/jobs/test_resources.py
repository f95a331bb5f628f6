"""A disk that is full, forbidden or gone: one sentence, what is committed stays, the same command goes on after it."""

import errno
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tcae_cli.errors import DiskError, TcaeError
from tcae_cli.reports.progress import Silent
from tcae_cli.store.reader import LatentStore

from ..store_contents import assert_same_store, committed_rows
from .privileges import heeding_permissions

ADVICE = "what is complete stays, put it right and repeat"


class After(Silent):
    """Does something once so many rows are written."""

    def __init__(self, num_rows: int, act: Callable[[], object]) -> None:
        self._left, self._act = num_rows, act

    def advance(self, count: int = 1, failed: int = 0, note: str = "") -> None:
        self._left -= count
        if -count < self._left <= 0:
            self._act()


class Disk:
    """A file system of its own, mounted at `path`."""

    def __init__(self, path: Path, options: str) -> None:
        self.path, self._ballast = path, path / "ballast"
        path.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path], capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.path], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", self.path], check=True)

    def fill(self) -> None:
        """Another program takes all the room there is."""
        with self._ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(os.statvfs(self.path).f_bavail * 4096 or 4096))

    def clear(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Disk]]:
    """Mounts a small file system; the test is skipped where that is not allowed."""
    disks: list[Disk] = []

    def mount(options: str) -> Disk:
        disks.append(Disk(tmp_path / f"disk{len(disks)}", options))
        return disks[-1]

    yield mount
    for disk in disks:
        disk.unmount()


@pytest.fixture(scope="module")
def whole(many_photos: Path, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the 240 photographs that nothing happened to."""
    from tcae_cli.jobs.encode import encode_dataset
    from tcae_cli.reports.encode import EncodeRequest

    store = tmp_path_factory.mktemp("whole") / "store.zarr"
    request = EncodeRequest(
        source=str(many_photos), store=str(store), model=str(small_checkpoint), device="cpu", num_workers=0
    )
    encode_dataset(request, Silent())
    return store


@pytest.fixture
def goes_on(many_photos: Path, whole: Path, encode) -> Callable[[Path], None]:
    """Checks that a run that failed on the way has lost nothing, and that the same command ends it."""

    def check(store: Path) -> None:
        num_shards = len(list(store.glob(".tcae/commits/*.json")))
        assert 0 < num_shards < 15
        assert len(committed_rows(store, whole)) >= 16 * num_shards
        assert encode(many_photos, store).num_encoded_now == 240 - 16 * num_shards
        assert_same_store(store, whole)
        assert not [path for path in store.rglob("*") if ".tcae/part/" in str(path) or "partial" in path.name]

    return check


def test_a_disk_that_fills_up(many_photos, tmp_path, encode, goes_on, mount):
    disk = mount("size=16m")
    store = disk.path / "store.zarr"
    with pytest.raises(DiskError, match=rf"^{store}/\S+ cannot be written: the disk is full; {ADVICE}$"):
        encode(many_photos, store, After(100, disk.fill))
    disk.clear()
    goes_on(store)


def test_a_full_disk_is_one_line_of_the_command_and_exit_code_1(photos, start_tcae, mount):
    disk = mount("size=1m")
    disk.fill()
    run = start_tcae(photos, disk.path / "store.zarr")
    _, stderr = run.communicate(timeout=120)

    assert run.returncode == 1
    (error,) = (line for line in stderr.splitlines() if line.startswith("Error: "))
    assert error.startswith(f"Error: {disk.path}/store.zarr/") and error.endswith(f"the disk is full; {ADVICE}")
    assert "Traceback" not in stderr


def test_a_disk_holds_more_images_than_files(many_photos, encode, mount, whole):
    disk = mount("size=16m,nr_inodes=230")
    encode(many_photos, disk.path / "store.zarr")
    assert os.statvfs(disk.path).f_files < 240
    assert_same_store(disk.path / "store.zarr", whole)


def test_a_disk_that_holds_no_more_files(many_photos, encode, goes_on, mount):
    disk = mount("size=16m,nr_inodes=100")
    store = disk.path / "store.zarr"
    with pytest.raises(
        DiskError, match=rf"^{store}/\S+ cannot be written: .* holds as many files as it can, .*{ADVICE}"
    ):
        encode(many_photos, store)
    disk.remount("nr_inodes=1000")
    goes_on(store)


def test_a_target_that_is_made_read_only(many_photos, encode, goes_on, mount):
    disk = mount("size=16m")
    store = disk.path / "store.zarr"
    with pytest.raises(KeyboardInterrupt):
        encode(many_photos, store, After(100, stop))
    disk.remount("ro")
    with pytest.raises(DiskError, match=rf"^{store}/\S+ cannot be written: the file system is read-only; {ADVICE}$"):
        encode(many_photos, store)
    with pytest.warns(match="is not complete"):
        assert LatentStore(store).ok_rows.size > 0  # to read from it is no matter
    disk.remount("rw")
    goes_on(store)


def stop() -> None:
    raise KeyboardInterrupt


def test_a_read_only_place_for_a_new_store(photos, encode, mount):
    disk = mount("size=16m,ro")
    with pytest.raises(
        DiskError, match=rf"^{disk.path}/new/store.zarr cannot be written: the file system is read-only"
    ):
        encode(photos, disk.path / "new" / "store.zarr")


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_disk_that_refuses_what_it_took(many_photos, tmp_path, encode, goes_on, monkeypatch, number, cause):
    store, sync = tmp_path / "store.zarr", os.fsync

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(DiskError, match=rf"^{store}/\S+ cannot be written: {cause}; {ADVICE}$"):
        encode(many_photos, store, After(100, lambda: monkeypatch.setattr(os, "fsync", refuse)))
    monkeypatch.setattr(os, "fsync", sync)
    goes_on(store)


def test_a_limit_on_the_size_of_files(photos, tmp_path, encode):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))

    try:
        with pytest.raises(DiskError, match=rf"cannot be written: the limit on a file's size is reached; {ADVICE}$"):
            encode(photos, tmp_path / "store.zarr", After(10, limit))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert encode(photos, tmp_path / "store.zarr").num_ok == 24


@pytest.mark.parametrize("where", [".tcae/part", ".tcae/commits", "status"])
def test_permission_that_is_lost(many_photos, tmp_path, encode, goes_on, where):
    store = tmp_path / "store.zarr"
    with heeding_permissions():
        with pytest.raises(DiskError, match=rf"^{store}/\S+ cannot be written: permission is denied; {ADVICE}$"):
            encode(many_photos, store, After(100, lambda: (store / where).chmod(0o500)))
        (store / where).chmod(0o755)
        goes_on(store)


@pytest.mark.parametrize(
    ("num_rows", "sentence"),
    [
        (1, f"cannot be written: it was removed while in use; {ADVICE}$"),
        (100, f"cannot be written: it was removed while in use; {ADVICE}$"),
        (
            240,
            r"lease on the store is gone \(.*, or the store was removed\); repeat the command$",
        ),  # all rows are written
    ],
)
def test_a_target_that_is_removed(many_photos, tmp_path, encode, whole, num_rows, sentence):
    store = tmp_path / "store.zarr"
    with pytest.raises(TcaeError, match=rf"^{store}\b.*{sentence}"):
        encode(many_photos, store, After(num_rows, lambda: shutil.rmtree(store)))
    assert not store.exists()  # and it does not come back by itself

    assert encode(many_photos, store).num_encoded_now == 240
    assert_same_store(store, whole)


def test_a_full_disk_for_temporary_files(photos, tmp_path, encode, mount, monkeypatch):
    disk = mount("size=1m")
    disk.fill()
    monkeypatch.setattr(tempfile, "tempdir", str(disk.path))
    with pytest.raises(DiskError, match=rf"^{disk.path}/\S+ cannot be written: the disk is full; {ADVICE}$"):
        encode(photos, tmp_path / "store.zarr")
    disk.clear()
    assert encode(photos, tmp_path / "store.zarr").num_ok == 24
