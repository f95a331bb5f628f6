"""The files of a LocalFolder: one that is written under a temporary name, and one that is read in parts."""

import os
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from tcae_cli.runtime.files import disk_errors, read_errors, start_writing_out, sync

BLOCK_BYTES = 2**22

_PIECES_TOGETHER = 1024  # as systems allow
_WITHOUT_WAITING = getattr(os, "RWF_NOWAIT", 0)  # Linux; elsewhere every read waits for the disk


class LocalFile:
    """A FileInProgress under a temporary name in the same file system."""

    def __init__(self, temporary: Path, final: Path) -> None:
        self.final = final
        self._temporary = temporary
        self._waiting_bytes = 0
        self._file: BinaryIO = temporary.open("xb")

    def write(self, *pieces: bytes) -> None:
        with disk_errors(self.final):
            for start in range(0, len(pieces), _PIECES_TOGETHER):
                together = pieces[start : start + _PIECES_TOGETHER]
                num_bytes = os.writev(self._file.fileno(), together)
                if num_bytes < sum(map(len, together)):  # the disk is full; writing the rest will say so
                    self._file.write(b"".join(together)[num_bytes:])
                    self._file.flush()
            self._waiting_bytes += sum(map(len, pieces))
            if self._waiting_bytes >= BLOCK_BYTES:  # now, not all of it in seal
                start_writing_out(self._file, self._waiting_bytes)
                self._waiting_bytes = 0

    def seal(self) -> None:
        with disk_errors(self.final):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def rename(self) -> None:
        with disk_errors(self.final):
            os.replace(self._temporary, self.final)

    def link(self) -> bool:
        with disk_errors(self.final):
            try:
                os.link(self._temporary, self.final)
            except FileExistsError:
                return False
        self.sync_name()
        return True

    def publish(self) -> None:
        """Give it its name, durably, in place of an earlier file."""
        self.rename()
        self.sync_name()

    def sync_name(self) -> None:
        """Wait until the name is on the disk, with others that were given in the same folder before."""
        with disk_errors(self.final):
            sync(self.final.parent)

    def discard(self) -> None:
        with suppress(OSError):  # a full disk may refuse the rest of the buffer, and the file goes anyway
            self._file.close()
        with suppress(OSError):
            self._temporary.unlink()


class LocalRanges:
    """The Ranges of a local file that stays open: opening it costs more than reading a row."""

    def __init__(self, path: str) -> None:
        self._path = path
        with read_errors(path):
            self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, start: int, size: int) -> bytes:
        with read_errors(self._path):
            if start < 0:
                start = max(0, os.fstat(self._descriptor).st_size + start)
            return os.pread(self._descriptor, size, start)

    def fill_now(self, pieces: Sequence[memoryview | bytearray], start: int, size: int) -> bool:
        """Fill pieces of memory if the page cache has all of it; otherwise ask the disk for it."""
        with suppress(OSError):  # the cache has nothing of it, or the file system does not say
            if os.preadv(self._descriptor, pieces, start, _WITHOUT_WAITING) == size:
                return True
        if sys.platform != "darwin":
            with suppress(OSError):  # it is only advice
                os.posix_fadvise(self._descriptor, start, size, os.POSIX_FADV_WILLNEED)
        return False

    def fill(self, pieces: Sequence[memoryview | bytearray], start: int, size: int) -> bool:
        with read_errors(self._path):
            return os.preadv(self._descriptor, pieces, start) == size
