"""A folder of named files, on a local disk or in a remote store: each is whole or absent, and durable.

Names are relative to the folder, with "/" between parts. On a disk a file gets its name by a rename after fsync; in an
object store it exists once its upload ends.
"""

import os
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar
from uuid import uuid4

from tcae_cli.runtime.files import disk_errors, sync
from tcae_cli.runtime.local_file import LocalFile, LocalRanges, at_once
from tcae_cli.runtime.processes import this_process
from tcae_cli.runtime.remote import NUM_READS, is_remote
from tcae_cli.runtime.remote_folder import RemoteFolder

PARTS = ".tcae/part"  # files that have no name yet: OWNER.NUMBER
_BLOCK_BYTES = 2**22

Item = TypeVar("Item")
Result = TypeVar("Result")


class FileInProgress(Protocol):
    """A file that grows and is then published under its name."""

    def write(self, *pieces: bytes) -> None:
        """Append one piece after another."""

    def seal(self) -> None:
        """End the writing, and wait until the file would survive a power cut."""

    def publish(self) -> None:
        """Give the file its name, in place of an earlier file."""

    def discard(self) -> None:
        """Drop the file; nothing of it was visible."""


class Ranges(Protocol):
    """A file to be read in ranges, again and again."""

    def read(self, start: int, size: int) -> bytes:
        """Return `size` bytes from `start` on, fewer where the file ends; a negative start counts from the end."""

    def fill_now(self, piece: memoryview | bytearray, start: int) -> bool:
        """Fill a piece of memory; False if that would wait for a disk, which is asked for the bytes, or as fill."""

    def fill(self, piece: memoryview | bytearray, start: int) -> bool:
        """Fill a piece of memory; False if the file ends within it."""


class Folder(Protocol):
    """Files by name.

    Reading raises FileNotFoundError or another OSError, with errno, reason and file name; writing raises DiskError, or
    UsageError over http(s):// and hf://. May be used in a forked process: clients of remote stores are opened anew.
    """

    uri: str
    owner: str  # marks the temporary files of this process
    most_open: int  # files that may be kept open at once

    def read(self, name: str) -> bytes:
        """Return all bytes of a file."""

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Yield the bytes of files, in order; None for a missing one."""

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """Return a range of a file, as Ranges.read does."""

    def ranges(self, name: str) -> Ranges:
        """Open a file to be read in ranges."""

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Open a file to read and seek in, with read-ahead."""

    def in_order(
        self, function: Callable[[Item], Result], items: Iterable[Item], num_reads: int = NUM_READS
    ) -> Iterator[Result]:
        """Yield function(item) of each item, in order: one by one, or from a remote store with num_reads under way."""

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return the bytes of every file under a prefix, by name."""

    def modified(self, name: str) -> float:
        """Return when a file was written, in seconds of this folder's own clock."""

    def make(self) -> None:
        """Make the folder, where it is missing."""

    def remove_if_empty(self) -> None:
        """Remove the folders that `make` made, if there is no file in them."""

    def write(self, *steps: Mapping[str, bytes]) -> None:
        """Write files, each in one piece, those of a step before those of the next; all are durable on return."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not exist yet; False, and nothing changed, if it does."""

    def begin(self, name: str) -> FileInProgress:
        """Begin a file that is written piece by piece."""

    def put(self, path: Path, name: str) -> None:
        """Copy a local file into the folder."""

    def fetch(self, prefix: str, scratch: Path) -> Path:
        """Return a local folder with the files under a prefix, to be mapped; copied below `scratch` if remote."""

    def remove(self, names: Sequence[str]) -> None:
        """Remove files, in order, durably; a missing one does not matter."""


def open_folder(uri: str | Path) -> Folder:
    """Open the folder at a path or `s3://`, `gs://` name, which need not exist, to be written and read.

    Raises UsageError for other protocols.
    """
    if not is_remote(str(uri)):
        return LocalFolder(Path(uri))
    folder = RemoteFolder(str(uri).rstrip("/"))
    folder.refuse_if_read_only()
    return folder


def open_to_read(root: str) -> Folder:
    """Open the folder at an absolute path or a URL, of any protocol, to be read.

    root: taken to the letter where it ends in "/", for names in object stores may hold empty parts.
    """
    if not is_remote(root):
        return LocalFolder(Path(root))
    return RemoteFolder(root)


def common_root(locations: list[str]) -> str:
    """Return the deepest folder above all these paths or URLs, ending in "/": the rest of each is its name there."""
    # By characters, then cut at a slash: names in object stores hold // and .., which commonpath would tidy away.
    start = os.path.commonprefix(locations)  # noqa: RUF071
    return start[: start.rfind("/") + 1]


class LocalFolder:
    """A folder of a local file system."""

    def __init__(self, path: Path) -> None:
        self.uri = str(path)
        self.path = path
        self.owner = this_process()
        # An eighth of a process's files: a trainer may have readers of several views and stores.
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most_open = sys.maxsize if limit == resource.RLIM_INFINITY else max(1, limit // 8)
        self._made: list[Path] = []

    def read(self, name: str) -> bytes:
        with open(os.path.join(self.uri, name), "rb", buffering=0) as file:
            return file.read()

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        for name in names:
            try:
                yield self.read(name)
            except FileNotFoundError:
                yield None

    def read_range(self, name: str, start: int, size: int) -> bytes:
        return self.ranges(name).read(start, size)

    def ranges(self, name: str) -> LocalRanges:
        return LocalRanges(os.path.join(self.uri, name))

    def open(self, name: str) -> BinaryIO:
        return open(os.path.join(self.uri, name), "rb")

    def in_order(
        self, function: Callable[[Item], Result], items: Iterable[Item], num_reads: int = NUM_READS
    ) -> Iterator[Result]:
        return map(function, items)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        found: dict[str, int] = {}
        for parent, _, names in os.walk(self.path / prefix):
            relative = os.path.relpath(parent, self.path)
            for name in names:
                with suppress(FileNotFoundError):  # removed meanwhile
                    size = os.stat(os.path.join(parent, name)).st_size
                    found[name if relative == "." else f"{relative}/{name}"] = size
        return found

    def modified(self, name: str) -> float:
        return (self.path / name).stat().st_mtime

    def make(self) -> None:
        self._made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def remove_if_empty(self) -> None:
        # Only folders that this process made: elsewhere others may be about to put a file there.
        below = sorted(self.path.rglob("*"), reverse=True) if self._made else []
        for path in (*below, *self._made):
            with suppress(OSError):  # not empty, or not there
                path.rmdir()

    def write(self, *steps: Mapping[str, bytes]) -> None:
        parts: list[LocalFile] = []
        try:
            for name, data in chain.from_iterable(step.items() for step in steps):
                parts.append(self.begin(name))
                parts[-1].write(data)
            at_once(LocalFile.seal, parts)
            following = iter(parts)
            for step in steps:
                named = list(islice(following, len(step)))
                for part in named:
                    part.rename()
                at_once(LocalFile.sync_name, list({part.final.parent: part for part in named}.values()))
        finally:
            for part in parts:
                part.discard()

    def create(self, name: str, data: bytes) -> bool:
        part = self.begin(name)
        try:
            part.write(data)
            part.seal()
            return part.link()
        finally:
            part.discard()

    def begin(self, name: str) -> "LocalFile":
        final = self.path / name
        temporary = self.path / PARTS / f"{self.owner}.{uuid4().hex[:12]}"
        with disk_errors(final):
            self._make_below(temporary.parent)
            self._make_below(final.parent)
            return LocalFile(temporary, final)

    def put(self, path: Path, name: str) -> None:
        part = self.begin(name)
        try:
            with path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    part.write(block)
            part.seal()
            part.publish()
        finally:
            part.discard()

    def fetch(self, prefix: str, scratch: Path) -> Path:
        return self.path / prefix

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            path = self.path / name
            with disk_errors(path), suppress(FileNotFoundError):
                path.unlink()
                sync(path.parent)

    def _make_below(self, folder: Path) -> None:
        """Make a folder below this one, which must exist: one that was removed does not come back by itself."""
        if folder.is_dir():
            return
        if folder != self.path:
            self._make_below(folder.parent)
            with suppress(FileExistsError):
                folder.mkdir()
                sync(folder.parent)
