"""Maps a column of an index, and compares each block of its file with a CRC-32C before it is first read."""

from mmap import MADV_DONTNEED, mmap
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from tcae_cli.errors import SourceError
from tcae_cli.runtime.checksums import crc32c_of

SUMMARY_FILE = "source.json"  # written last: an index without it does not exist

_BLOCK_BYTES = 2**18  # a row of a large index is read without all of it
# What numpy raises for bytes that are not a .npy file.
_DAMAGED = (OSError, ValueError, TypeError, EOFError, OverflowError, SyntaxError, TokenError)


def checksums_of(data: bytes) -> list[int]:
    """Return the CRC-32C of each 256 KiB of a file."""
    return [crc32c_of(data[start : start + _BLOCK_BYTES]) for start in range(0, len(data), _BLOCK_BYTES)]


def damaged(path: Path, reason: str) -> SourceError:
    """Return the error to raise for a file of an index that is not as it was written."""
    first_line = (reason.splitlines() or ["it breaks off"])[0]
    return SourceError(
        f"{path} is damaged ({first_line}); remove {path.with_name(SUMMARY_FILE)} and repeat, so that the source is "
        f"listed again"
    )


class IndexColumn:
    """The values of a column, [n], read by index or slice.

    `checksums` are those of the blocks of its file; None if an earlier version wrote none. Raises SourceError if the
    file is missing or damaged, when the column is opened or when a damaged part of it is read.
    """

    def __init__(self, path: Path, dtype: type[np.generic], checksums: list[int] | None) -> None:
        self._path = path
        self._checksums = checksums or []
        self._is_unread = np.ones(len(self._checksums), bool)
        try:
            self._bytes = np.memmap(path, np.uint8, "r")
            if checksums is not None and len(checksums) != -(-len(self._bytes) // _BLOCK_BYTES):
                raise self._other_crc32c()
            self._check(0, 1)  # the header
            self._values: np.memmap = np.load(path, mmap_mode="r")
        except _DAMAGED as error:
            raise damaged(path, getattr(error, "strerror", None) or str(error)) from error
        if not isinstance(self._values, np.memmap) or self._values.ndim != 1 or self._values.dtype != dtype:
            raise damaged(path, f"it is not one column of {np.dtype(dtype)}")

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: int | slice) -> Any:
        start, stop, _ = rows.indices(len(self)) if isinstance(rows, slice) else (rows, rows + 1, 1)
        first = self._values.offset
        self._check(first + start * self._values.itemsize, first + stop * self._values.itemsize)
        return self._values[rows]

    def release(self) -> None:
        """Free the memory of what was read: a map keeps every page."""
        for table in (self._values, self._bytes):
            if isinstance(table.base, mmap):
                table.base.madvise(MADV_DONTNEED)

    def _check(self, start: int, stop: int) -> None:
        """Compare the blocks that hold these bytes of the file with their checksums, unless that has been done."""
        first = start // _BLOCK_BYTES
        for block in np.flatnonzero(self._is_unread[first : -(-stop // _BLOCK_BYTES)]) + first:
            if crc32c_of(self._bytes[block * _BLOCK_BYTES :][:_BLOCK_BYTES]) != self._checksums[block]:
                raise self._other_crc32c()
            self._is_unread[block] = False

    def _other_crc32c(self) -> SourceError:
        return damaged(self._path, "it does not match its CRC-32C")
