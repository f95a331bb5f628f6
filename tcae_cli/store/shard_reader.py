"""Rows of a view, read from its shard files by themselves."""

import os
import resource
import sys
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from tcae_cli.errors import StoreError
from tcae_cli.runtime.folder import Folder, LocalFolder
from tcae_cli.store.codecs.registry import CODECS
from tcae_cli.store.layout import shard_file
from tcae_cli.store.shard_file import ABSENT, CRC_BYTES, crc32c_of
from tcae_cli.store.spec import StoreSpec

_REQUESTS_TOGETHER = 32  # of rows of a remote store
_READS_TOGETHER = 64  # that a disk works on for one thread
_MOST_SHARDS_OPEN = 1024  # indexes, and files, that a reader keeps; 64 KiB each at 4,096 rows
_WITHOUT_WAITING = getattr(os, "RWF_NOWAIT", 0)  # Linux; elsewhere every read waits for the disk


class ShardReader:
    """Reads single rows of a view, [c, h, w] each, without the rest of their shard.

    Shares nothing that moves between threads or forked processes.
    """

    def __init__(self, folder: Folder, spec: StoreSpec, view: str) -> None:
        self._folder, self._spec, self._view = folder, spec, view
        self._codec, self._rows_per_shard = CODECS[spec.codec](), spec.rows_per_shard
        self._shape, self._dtype = spec.sample_shape(view), np.dtype(spec.dtype).newbyteorder("<")
        self._is_kept_as_read = self._codec.is_raw and self._dtype.isnative
        most_open = _most_files_open() if isinstance(folder, LocalFolder) else _MOST_SHARDS_OPEN
        self._shard = lru_cache(most_open)(self._open)

    def read(self, rows: np.ndarray, out: np.ndarray) -> list[int]:
        """Read the values of rows, in any order, into `out`, [k, c, h, w], contiguous, in the store's dtype.

        Returns the places among them of rows that the store holds no latents of. Raises StoreError on damage.
        """
        if isinstance(self._folder, LocalFolder):
            return self._read_local(rows, out)
        with ThreadPoolExecutor(_REQUESTS_TOGETHER) as requests:
            is_there = list(requests.map(self._request, rows.tolist(), out))
        return [place for place, found in enumerate(is_there) if not found]

    def chunk(self, row: int) -> bytes | None:
        """The compressed latents of a row; None where the store holds none. Raises StoreError on damage."""
        number, slot = divmod(row, self._rows_per_shard)
        try:
            return self._shard(number).chunk(slot)
        except FileNotFoundError:  # pending
            return None

    def stored(self, row: int, chunk: bytes | bytearray) -> np.ndarray:
        """The values in a row's chunk, [c, h, w], in the store's dtype. Raises StoreError on damage."""
        try:
            return np.frombuffer(self._codec.decode(chunk), self._dtype).reshape(self._shape)
        except (RuntimeError, ValueError) as error:
            raise self._damaged(row, str(error)) from error

    def whole(self, number: int, data: bytes) -> "_OpenShard":
        """A shard whose file was read already. Raises StoreError on damage of its index."""
        return _OpenShard(_Bytes(data), self._path(number), self._rows_per_shard)

    def _read_local(self, rows: np.ndarray, out: np.ndarray) -> list[int]:
        """What is in the page cache is taken as it comes. The rest is asked of the disk well before it is waited for.

        So a disk works on many reads together, for a single thread too. What needs no decoding goes straight to `out`.
        """
        absent: list[int] = []
        asked: deque[_Asked] = deque()
        order = np.argsort(rows)  # one shard after another, forward in each
        for place, row in zip(order.tolist(), rows[order].tolist(), strict=True):
            found, target = self._find(row), out[place]
            if found is None:
                absent.append(place)
                continue
            file, offset, size = found
            piece = target.data if self._is_kept_as_read and size == target.nbytes else bytearray(size)
            if file.has_filled(piece, offset):
                self._decode(row, piece, target)
                continue
            asked.append(_Asked(row, file, offset, piece, target))
            if len(asked) > _READS_TOGETHER:
                self._finish(asked.popleft())
        for each in asked:
            self._finish(each)
        return absent

    def _finish(self, asked: "_Asked") -> None:
        if not asked.file.fill(asked.piece, asked.offset):
            raise self._damaged(asked.row, "the file ends within them")
        self._decode(asked.row, asked.piece, asked.target)

    def _decode(self, row: int, piece: memoryview | bytearray, target: np.ndarray) -> None:
        if isinstance(piece, bytearray):
            target[:] = self.stored(row, piece)

    def _request(self, row: int, target: np.ndarray) -> bool:
        """Read one row; False where there is none."""
        chunk = self.chunk(row)
        if chunk is not None:
            target[:] = self.stored(row, chunk)
        return chunk is not None

    def _find(self, row: int) -> "tuple[_LocalRanges, int, int] | None":
        """The local file that a row is in, and offset and size of its chunk there; None where the store holds none."""
        number, slot = divmod(row, self._rows_per_shard)
        try:
            shard = self._shard(number)
        except FileNotFoundError:  # pending
            return None
        place = shard.find(slot)
        assert isinstance(shard.read, _LocalRanges)
        return None if place is None else (shard.read, *place)

    def _open(self, number: int) -> "_OpenShard":
        name = shard_file(self._spec, self._view, number)
        folder = self._folder
        read = _LocalRanges(folder.path / name) if isinstance(folder, LocalFolder) else _Ranges(folder, name)
        return _OpenShard(read, self._path(number), self._rows_per_shard)

    def _damaged(self, row: int, reason: str) -> StoreError:
        path = self._path(row // self._rows_per_shard)
        return StoreError(f"{path}: the latents of row {row} are damaged ({reason})")

    def _path(self, number: int) -> str:
        return f"{self._folder.uri}/{shard_file(self._spec, self._view, number)}"


class _Ranges:
    """Parts of a remote file."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name = folder, name

    def __call__(self, start: int, size: int) -> bytes:
        return self._folder.read_range(self._name, start, size)


class _LocalRanges:
    """Parts of a local file that stays open: opening it costs more than reading a row."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def __call__(self, start: int, size: int) -> bytes:
        if start < 0:
            start = max(0, os.fstat(self._descriptor).st_size + start)
        return os.pread(self._descriptor, size, start)

    def has_filled(self, piece: memoryview | bytearray, start: int) -> bool:
        """Fill a piece of memory if the page cache has it all; otherwise ask the disk for it."""
        with suppress(OSError):  # the cache has nothing of it, or the file system does not tell
            if self.fill(piece, start, _WITHOUT_WAITING):
                return True
        if sys.platform != "darwin":
            with suppress(OSError):  # it is only advice
                size = memoryview(piece).nbytes
                os.posix_fadvise(self._descriptor, start, size, os.POSIX_FADV_WILLNEED)
        return False

    def fill(self, piece: memoryview | bytearray, start: int, flags: int = 0) -> bool:
        """Fill it; False where the file ends before, or what is in memory."""
        return os.preadv(self._descriptor, [piece], start, flags) == memoryview(piece).nbytes


@dataclass(frozen=True)
class _Asked:
    """What the disk was asked for."""

    row: int
    file: _LocalRanges
    offset: int
    piece: memoryview | bytearray
    target: np.ndarray  # the same memory, unless it has to be decoded


class _Bytes:
    """Parts of a file that was read."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def __call__(self, start: int, size: int) -> bytes:
        return bytes(self._data[start:][:size])


class _OpenShard:
    """One shard file and its index."""

    def __init__(self, read: Callable[[int, int], bytes], path: str, num_chunks: int) -> None:
        self.read = read
        tail_bytes = num_chunks * 16 + CRC_BYTES
        tail = read(-tail_bytes, tail_bytes)
        index, crc = tail[:-CRC_BYTES], tail[-CRC_BYTES:]
        if len(tail) < tail_bytes or crc32c_of(index) != int.from_bytes(crc, "little"):
            raise StoreError(f"{path} is damaged: its index does not match its checksum")
        # Single numbers come out of a memoryview several times as fast as out of an array.
        self._index = np.frombuffer(index, "<u8").astype(np.uint64).data

    def find(self, slot: int) -> tuple[int, int] | None:
        """Offset and size of the chunk in a slot; None where there is none."""
        offset = self._index[2 * slot]
        return None if offset == ABSENT else (offset, self._index[2 * slot + 1])

    def chunk(self, slot: int) -> bytes | None:
        """The compressed latents in a slot; None where there are none."""
        place = self.find(slot)
        return None if place is None else self.read(*place)


def _most_files_open() -> int:
    """An eighth of the files that a process may have open: a trainer may have readers of several views and stores."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_SHARDS_OPEN if limit == resource.RLIM_INFINITY else max(1, min(limit // 8, _MOST_SHARDS_OPEN))
