"""A folder of named files, here or in an object store: whole or absent, and durable, whatever happens.

Names are relative to the folder, with "/" between parts. Here a file gets its name by a rename after fsync; in an
object store it is there once its upload ends.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from tcae_cli.runtime.files import disk_errors, sync
from tcae_cli.runtime.local_file import LocalFile, at_once
from tcae_cli.runtime.processes import this_process
from tcae_cli.runtime.remote import is_remote

PARTS = ".tcae/part"  # files that have no name yet: OWNER.NUMBER
_BLOCK_BYTES = 2**22


class FileInProgress(Protocol):
    """A file that grows and is then published under its name."""

    def write(self, *pieces: bytes) -> None:
        """Append, one piece after another."""

    def seal(self) -> None:
        """All of it is written; wait until it would survive a power cut."""

    def publish(self) -> None:
        """Give it its name, in place of what had it."""

    def discard(self) -> None:
        """Drop it; nothing of it was visible."""


class Folder(Protocol):
    """Files by name. Reading raises FileNotFoundError or another OSError, writing DiskError."""

    uri: str
    owner: str  # marks the temporary files of this process

    def read(self, name: str) -> bytes:
        """All bytes of a file."""

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """The bytes of files, in order; None where there is none."""

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """`size` bytes from `start` on, or from so many before the end when `start` is negative."""

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of every file under a prefix, by name."""

    def modified(self, name: str) -> float:
        """When a file was written, in seconds of this folder's own clock."""

    def make(self) -> None:
        """Make the folder, where it is missing."""

    def remove_if_empty(self) -> None:
        """Remove what `make` made, if there is no file in it."""

    def write(self, *steps: Mapping[str, bytes]) -> None:
        """Write files, each in one piece; all are durable on return, and those of a step before the next are there."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not be there; False, and nothing changed, if it is."""

    def begin(self, name: str) -> FileInProgress:
        """A file to be written bit by bit."""

    def put(self, path: Path, name: str) -> None:
        """Copy a local file."""

    def fetch(self, prefix: str, scratch: Path) -> Path:
        """A local folder with the files under a prefix, to be mapped; below `scratch` where they are not local."""

    def remove(self, names: Sequence[str]) -> None:
        """Remove files, in order, durably; what is not there does not matter."""


def open_folder(uri: str | Path) -> Folder:
    """The folder at a path or `s3://`, `gs://` name, which need not exist. Raises UsageError for other protocols."""
    if not is_remote(str(uri)):
        return LocalFolder(Path(uri))
    from tcae_cli.runtime.remote_folder import RemoteFolder  # fsspec takes a while to import

    return RemoteFolder(str(uri))


class LocalFolder:
    """A folder of a file system."""

    def __init__(self, path: Path) -> None:
        self.uri, self.path, self.owner = str(path), path, this_process()
        self._made: list[Path] = []

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        for name in names:
            try:
                yield self.read(name)
            except FileNotFoundError:
                yield None

    def read_range(self, name: str, start: int, size: int) -> bytes:
        with (self.path / name).open("rb", buffering=0) as file:
            if start < 0:
                start = max(0, os.fstat(file.fileno()).st_size + start)
            return os.pread(file.fileno(), size, start)

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
        # Only what this process made: elsewhere others may be about to put a file there.
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
        """Make a folder below this one, which must be there: one that was removed does not come back by itself."""
        if folder.is_dir():
            return
        if folder != self.path:
            self._make_below(folder.parent)
            with suppress(FileExistsError):
                folder.mkdir()
                sync(folder.parent)
