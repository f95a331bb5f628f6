"""Writes files that are whole or absent, whatever happens: temporary name, fsync, rename, fsync of the folder."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from tcae_cli.errors import DiskError

_CAUSES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the limit on a file's size is reached",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.ENOENT: "it was removed while in use",
    errno.EMFILE: "too many files are open at once, whose number ulimit -n raises",
    errno.EEXIST: "a file of that name is in the way",
    errno.ENOTDIR: "a file is where a folder should be",
    errno.EISDIR: "a folder is where a file should be",
    errno.ELOOP: "it is a symbolic link",
}


class ReadError(DiskError):
    """Raised when a file exists and cannot be read; it has the errno, reason and file name of the system's error."""

    def __str__(self) -> str:
        cause = _CAUSES.get(self.errno or 0) or self.strerror
        return f"{self.filename} cannot be read: {cause}; put it right and repeat"


@contextmanager
def read_errors(path: Path | str) -> Iterator[None]:
    """Turn errors of the system in reading a file that exists into a ReadError about it."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, DiskError):
        raise
    except OSError as error:
        raise ReadError(error.errno, error.strerror, str(path)) from error


def refuse_unlisted(error: OSError) -> None:
    """Raise ReadError for a folder that is there and cannot be listed, which does not mean that it is empty."""
    with unless_missing(error.filename):
        raise error


@contextmanager
def unless_missing(path: str) -> Iterator[None]:
    """Turn errors into a ReadError, but for those of a file that was removed meanwhile or a link that leads nowhere."""
    try:
        with read_errors(path):
            yield
    except (FileNotFoundError, NotADirectoryError):
        pass
    except ReadError as error:
        if error.errno != errno.ELOOP:
            raise


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file in one piece: a reader sees the whole new file or the whole old one. Raises DiskError."""
    temporary = temporary_beside(path)
    with disk_errors(path):
        try:
            with temporary.open("xb") as file:
                file.write(data)
            rename_durably(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, where they are missing. Raises DiskError."""
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def path_inside(folder: Path, name: str) -> Path:
    """Return the path of a file of this name in a folder, to be written or removed.

    Raises DiskError if the name leads out of the folder, or a folder on the way is a symbolic link: nothing outside is
    touched. The folder itself may be reached through a link.
    """
    parts = name.split("/")
    if "\0" in name or not {"", ".", ".."}.isdisjoint(parts):
        raise DiskError(f"{name!r} is not the name of a file inside {folder}, so it is neither written nor removed")
    path = folder
    for part in parts[:-1]:
        path = path / part
        if path.is_symlink():
            raise DiskError(
                f"{path} is a symbolic link, and nothing is written or removed through links inside {folder}; "
                f"put a folder in its place and repeat"
            )
    return path / parts[-1]


def open_no_link(path: Path, flags: int) -> int:
    """Make a file, if it is missing, and return a descriptor of it; raise OSError (ELOOP) if it is a symbolic link."""
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o666)


def cache_folder() -> Path:
    """Return this user's folder for files that can be made again: XDG_CACHE_HOME/tcae, or ~/.cache/tcae."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tcae"


def temporary_beside(path: Path) -> Path:
    """Return a new hidden name in the same folder, so that a rename is atomic."""
    return path.with_name(f".{path.name[:100]}.{uuid4().hex[:12]}.partial")


def rename_durably(temporary: Path, final: Path) -> None:
    """Give a finished file its name, so that it survives a power cut."""
    sync(temporary)
    os.replace(temporary, final)
    sync(final.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def start_writing_out(file: BinaryIO, num_bytes: int) -> None:
    """Start to write the last bytes of a file to the disk, without waiting: its fsync has less left to wait for."""
    file.flush()
    if sys.platform != "darwin":
        os.posix_fadvise(file.fileno(), file.tell() - num_bytes, num_bytes, os.POSIX_FADV_DONTNEED)


def tree_bytes(folder: Path) -> int:
    """Return the size of all files under a folder; those that other processes remove meanwhile do not count."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def free_bytes(path: Path) -> int:
    """Return the bytes that this user can still write where `path` is, or where it would be made."""
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    status = os.statvfs(existing)
    return status.f_bavail * status.f_frsize


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a full, read-only or vanished disk into a DiskError about `path`."""
    try:
        yield
    except DiskError:  # an OSError too, with its own sentence
        raise
    except OSError as error:
        cause = _CAUSES.get(error.errno or 0) or error.strerror or str(error)
        if error.errno == errno.ENOSPC:
            existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
            status = os.statvfs(existing)
            if status.f_files != 0 and status.f_favail <= 0:  # no inodes left; file systems without a count report 0
                cause = "the disk is full: it holds as many files as it can, whatever their sizes"
        raise DiskError(
            f"{path} cannot be written: {cause}; what is complete stays, put it right and repeat"
        ) from error
