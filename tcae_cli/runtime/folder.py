"""Defines a folder of named files, on a local disk or in a remote store: each is whole or absent, and durable.

Names are relative to the folder, with "/" between parts. On a disk a file gets its name by a rename after fsync; in an
object store it exists once its upload ends.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from tcae_cli.errors import UsageError
from tcae_cli.runtime.local_folder import LocalFolder, no_check
from tcae_cli.runtime.remote import NUM_READS, is_remote
from tcae_cli.runtime.remote_folder import RemoteFolder

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

    def fill_now(self, pieces: Sequence[memoryview | bytearray], start: int, size: int) -> bool:
        """Fill pieces of memory, of `size` bytes together, from `start` on without waiting for a disk.

        Return False if the file ends within, or if the bytes are only on a disk, which is then asked for them. The
        bytes of a remote file are fetched as by fill.
        """

    def fill(self, pieces: Sequence[memoryview | bytearray], start: int, size: int) -> bool:
        """Fill pieces of memory, of `size` bytes together, from `start` on; return False if the file ends within."""


class Folder(Protocol):
    """Files by name.

    Reading raises FileNotFoundError or another OSError, with errno, reason and file name; writing raises DiskError, or
    UsageError over http(s):// and hf://. May be used in a forked process: clients of remote stores are opened anew.
    """

    uri: str
    owner: str  # marks the temporary files of this process
    most_open: int  # files that may be kept open at once
    can_list: bool  # whether `sizes` can be asked: a plain web server lists no files
    keeps_opened: bool  # whether Ranges stay those of the file that was opened, should another get its name

    def below(self, name: str) -> "Folder":
        """Return the folder of this name inside this one, which need not exist."""

    def read(self, name: str) -> bytes:
        """Return all bytes of a file."""

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Yield the bytes of files, in order; None for a missing one."""

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """Return a range of a file, as Ranges.read does."""

    def ranges(self, name: str) -> Ranges:
        """Open a file to be read in ranges."""

    def open(self, name: str, read_ahead_bytes: int | None = None) -> AbstractContextManager[BinaryIO]:
        """Open a file to read and seek in; of a remote one at least so many bytes are fetched together."""

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

    def write(self, *steps: Mapping[str, bytes], check: Callable[[], None] = no_check) -> None:
        """Write files, each in one piece, those of a step before those of the next; all are durable on return.

        check: is called just before the files of a step get their names; if it raises, they do not get them.
        """

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not exist yet; if it does, change nothing and return False."""

    def begin(self, name: str) -> FileInProgress:
        """Begin a file that is written piece by piece."""

    def discard_parts(self, owner: str, names: Collection[str]) -> None:
        """Remove what a process that seems to have ended has written of these files: it cannot publish it any more.

        In an object store nothing can be removed: an upload that is under way may still end.
        """

    def put(self, path: Path, name: str) -> None:
        """Copy a local file into the folder."""

    def fetch(self, prefix: str, names: Sequence[str], scratch: Path) -> Path:
        """Return a local folder with these files of a prefix, to be mapped; copied below `scratch` if remote.

        Files that are missing are missing there too.
        """

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


def open_pinned(uri: str | Path) -> Folder:
    """Open the folder at a path or a URL of any protocol to be read as it is now.

    A name on the Hugging Face Hub, hf://datasets/ORG/NAME[@REVISION]/PATH, is read at the commit that its revision
    stands for now, so that everything read belongs together. Raises what hub.pin raises, UsageError for other hf://.
    """
    root = str(uri)
    if not is_remote(root):
        return LocalFolder(Path(uri))
    if root.startswith("hf://"):
        from tcae_cli.runtime.hub import pin  # here, since the Hub's client takes long to import
        from tcae_cli.runtime.hub_name import parse_name

        if parse_name(root) is None:
            raise UsageError(f"{root} is not a store; on the Hub a store is hf://datasets/ORG/NAME/PATH")
        root = pin(root)
    return open_to_read(root.rstrip("/"))


def open_to_read(root: str) -> Folder:
    """Open the folder at an absolute path or a URL, of any protocol, to be read.

    root: taken to the letter where it ends in "/", for names in object stores may hold empty parts.
    """
    if not is_remote(root):
        return LocalFolder(Path(root))
    if root.startswith("hf://datasets/"):
        from tcae_cli.runtime.hub_folder import HubFolder  # here, since the Hub's client takes long to import

        return HubFolder(root)
    return RemoteFolder(root)


def common_root(locations: list[str]) -> str:
    """Return the deepest folder above all these paths or URLs, ending in "/": the rest of each is its name there."""
    # By characters, then cut at a slash: names in object stores hold // and .., which commonpath would tidy away.
    start = os.path.commonprefix(locations)  # noqa: RUF071
    return start[: start.rfind("/") + 1]
