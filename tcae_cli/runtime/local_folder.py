"""A Folder on a local disk: a file is written under a temporary name, made durable, and then renamed.

Links inside the folder are followed where files are read, and never where they are written or removed.
"""

import os
import re
import resource
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, TypeVar
from uuid import uuid4

from tcae_cli.runtime.files import disk_errors, path_inside, read_errors, refuse_unlisted, sync, unless_missing
from tcae_cli.runtime.local_file import BLOCK_BYTES, LocalFile, LocalRanges
from tcae_cli.runtime.processes import this_process
from tcae_cli.runtime.remote import NUM_READS

PARTS = ".tcae/part"  # files that have no name yet: OWNER.NUMBER, which begins with the digest of their name

_PART_NAME = re.compile(r"(?P<owner>[0-9a-f]{12}-[0-9]+)\.[0-9a-f]{12,32}")
_THREADS = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


def no_check() -> None:
    """Do nothing: files may always get their names."""


class LocalFolder:
    """A folder of a local file system."""

    can_list = True
    keeps_opened = True

    def __init__(self, path: Path) -> None:
        self.uri = str(path)
        self.path = path
        self.owner = this_process()
        self.most_open = most_open_files()
        self._made: list[Path] = []

    def below(self, name: str) -> "LocalFolder":
        return LocalFolder(self.path / name)

    def read(self, name: str) -> bytes:
        path = os.path.join(self.uri, name)
        with read_errors(path), open(path, "rb", buffering=0) as file:
            return file.read()

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        for name in names:
            try:
                yield self.read(name)
            except (FileNotFoundError, NotADirectoryError):
                yield None

    def read_range(self, name: str, start: int, size: int) -> bytes:
        return self.ranges(name).read(start, size)

    def ranges(self, name: str) -> "LocalRanges":
        return LocalRanges(os.path.join(self.uri, name))

    def open(self, name: str, read_ahead_bytes: int | None = None) -> BinaryIO:
        path = os.path.join(self.uri, name)
        with read_errors(path):
            return open(path, "rb")

    def in_order(
        self, function: Callable[[Item], Result], items: Iterable[Item], num_reads: int = NUM_READS
    ) -> Iterator[Result]:
        return map(function, items)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        found: dict[str, int] = {}
        for parent, below, names in os.walk(self.path / prefix, onerror=refuse_unlisted, followlinks=True):
            below[:] = [name for name in below if not _leads_round(os.path.join(parent, name))]
            relative = os.path.relpath(parent, self.path)
            for name in names:
                path = os.path.join(parent, name)
                with unless_missing(path):
                    found[name if relative == "." else f"{relative}/{name}"] = os.stat(path).st_size
        return found

    def modified(self, name: str) -> float:
        return (self.path / name).stat().st_mtime

    def make(self) -> None:
        self._made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        with disk_errors(self.path):
            for path in reversed(self._made):
                path.mkdir(exist_ok=True)
                sync(path.parent)
            self.path.mkdir(exist_ok=True)  # an error if it is a file

    def remove_if_empty(self) -> None:
        # Only folders that this process made: elsewhere others may be about to put a file there.
        below = sorted(self.path.rglob("*"), reverse=True) if self._made else []
        for path in (*below, *self._made):
            with suppress(OSError):  # not empty, or not there
                path.rmdir()

    def write(self, *steps: Mapping[str, bytes], check: Callable[[], None] = no_check) -> None:
        parts: list[LocalFile] = []
        try:
            for name, data in chain.from_iterable(step.items() for step in steps):
                parts.append(self.begin(name))
                parts[-1].write(data)
            at_once(LocalFile.seal, parts)
            following = iter(parts)
            for step in steps:
                named = list(islice(following, len(step)))
                check()
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
        final = path_inside(self.path, name)
        temporary = path_inside(self.path, f"{PARTS}/{self.owner}.{_digest(name)}{uuid4().hex[:12]}")
        with disk_errors(final):
            self._make_below(temporary.parent)
            self._make_below(final.parent)
            return LocalFile(temporary, final)

    def discard_parts(self, owner: str, names: Collection[str]) -> None:
        theirs = tuple(f"{PARTS}/{owner}.{_digest(name)}" for name in names)
        self.remove([part for part in self.sizes(PARTS) if owner_of_part(part) == owner and part.startswith(theirs)])

    def put(self, path: Path, name: str) -> None:
        part = self.begin(name)
        try:
            with path.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    part.write(block)
            part.seal()
            part.publish()
        finally:
            part.discard()

    def fetch(self, prefix: str, names: Sequence[str], scratch: Path) -> Path:
        return self.path / prefix

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            path = path_inside(self.path, name)
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


def most_open_files() -> int:
    """Return how many files a reader keeps open: an eighth of a process's, since a trainer may have many readers."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else max(1, limit // 8)


def owner_of_part(name: str) -> str | None:
    """Return the owner of a temporary file, by its name in a folder; None if it is not one."""
    parent, _, file = name.rpartition("/")
    found = _PART_NAME.fullmatch(file) if parent == PARTS else None
    return found and found["owner"]


def _leads_round(folder: str) -> bool:
    """Return whether a folder is a link to one that it is in."""
    path = Path(folder)
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def _digest(name: str) -> str:
    return blake2b(name.encode(), digest_size=6).hexdigest()


def at_once(wait: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Call a function that waits for the disk on each item, side by side: a file system makes one wait of many."""
    if len(items) < 2:
        for item in items:
            wait(item)
        return
    with ThreadPoolExecutor(min(len(items), _THREADS)) as threads:
        list(threads.map(wait, items))
