"""Files of a local disk: written under a temporary name and then renamed, or kept open and read in ranges."""

import os
import sys
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from tcae_cli.runtime.files import disk_errors, start_writing_out, sync

_BLOCK_BYTES = 2**22
_PIECES_TOGETHER = 1024  # as systems allow
_THREADS = 16
_WITHOUT_WAITING = getattr(os, "RWF_NOWAIT", 0)  # Linux; elsewhere every read waits for the disk

Item = TypeVar("Item")


def at_once(wait: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Call a function that waits for the disk on each item, side by side: a file system makes one wait of many."""
    if len(items) < 2:
        for item in items:
            wait(item)
        return
    with ThreadPoolExecutor(min(len(items), _THREADS)) as threads:
        list(threads.map(wait, items))


class LocalFile:
    """A FileInProgress under a temporary name in the same file system."""

    def __init__(self, temporary: Path, final: Path) -> None:
        self.final, self._temporary, self._waiting_bytes = final, temporary, 0
        self._file: BinaryIO = temporary.open("xb")

    def write(self, *pieces: bytes) -> None:
        with disk_errors(self.final):
            for start in range(0, len(pieces), _PIECES_TOGETHER):
                self._write(pieces[start : start + _PIECES_TOGETHER])
            self._waiting_bytes += sum(map(len, pieces))
            if self._waiting_bytes >= _BLOCK_BYTES:  # now, not all of it in seal
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

    def _write(self, pieces: Sequence[bytes]) -> None:
        num_bytes = os.writev(self._file.fileno(), pieces)
        if num_bytes < sum(map(len, pieces)):  # where the room ends; the rest will say why
            self._file.write(b"".join(pieces)[num_bytes:])
            self._file.flush()


class LocalRanges:
    """The Ranges of a local file that stays open: opening it costs more than reading a row."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, start: int, size: int) -> bytes:
        if start < 0:
            start = max(0, os.fstat(self._descriptor).st_size + start)
        return os.pread(self._descriptor, size, start)

    def fill_now(self, piece: memoryview | bytearray, start: int) -> bool:
        """Fill a piece of memory if the page cache has all of it; otherwise ask the disk for it."""
        with suppress(OSError):  # the cache has nothing of it, or the file system does not say
            if self.fill(piece, start, _WITHOUT_WAITING):
                return True
        if sys.platform != "darwin":
            with suppress(OSError):  # it is only advice
                size = memoryview(piece).nbytes
                os.posix_fadvise(self._descriptor, start, size, os.POSIX_FADV_WILLNEED)
        return False

    def fill(self, piece: memoryview | bytearray, start: int, flags: int = 0) -> bool:
        return os.preadv(self._descriptor, [piece], start, flags) == memoryview(piece).nbytes
