"""Rows of a view, read from its shard files by themselves."""

import os
import resource
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from tcae_cli.errors import StoreError
from tcae_cli.runtime.folder import Folder, LocalFolder
from tcae_cli.store.layout import shard_file
from tcae_cli.store.shard_file import ABSENT, CRC_BYTES, chunk_codec, crc32c_of
from tcae_cli.store.spec import StoreSpec

_REQUESTS_TOGETHER = 32  # of rows of a remote store
_MOST_SHARDS_OPEN = 1024  # files and indexes that a reader keeps; 64 KiB each at 4,096 rows
_NOT_WAITING = getattr(os, "RWF_NOWAIT", 0)  # Linux; elsewhere a read waits for the disk


class ShardReader:
    """Reads single rows of a view, [c, h, w] each, with one read or one ranged request a row.

    Shares nothing that moves between threads or forked processes.
    """

    def __init__(self, folder: Folder, spec: StoreSpec, view: str) -> None:
        self._folder, self._spec, self._view = folder, spec, view
        self._codec, self._rows_per_shard = chunk_codec(spec.codec), spec.rows_per_shard
        self._shape, self._dtype = spec.sample_shape(view), np.dtype(spec.dtype).newbyteorder("<")
        self._is_kept_as_read = spec.codec == "none" and self._dtype.isnative
        self._shard = lru_cache(_num_shards_open())(self._open)

    def read(self, rows: np.ndarray, out: np.ndarray) -> list[int]:
        """Read the values of rows, in any order, into `out`, [k, c, h, w], in the store's dtype.

        Returns the places among them of rows that the store holds no latents of. Raises StoreError on damage.
        """
        if isinstance(self._folder, LocalFolder):
            return self._read_local(rows, out)
        with ThreadPoolExecutor(_REQUESTS_TOGETHER) as requests:
            is_there = list(requests.map(self._request, rows.tolist(), out))
        return [place for place, found in enumerate(is_there) if not found]

    def chunk(self, row: int) -> bytes | None:
        """The compressed latents of a row; None where the store holds none. Raises StoreError on damage."""
        found = self._find(row)
        if found is None:
            return None
        read, offset, size = found
        return read(offset, size)

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
        """What the page cache has is taken at once. The rest is asked for, all of it, before the first is waited for.

        So a disk works on many reads together, for a single thread too. What needs no decoding goes straight to `out`.
        """
        absent: list[int] = []
        waiting: list[tuple[int, np.ndarray, _LocalRanges, int, memoryview | bytearray, int]] = []
        order = np.argsort(rows)  # one shard after another, forward in each
        for place, row in zip(order.tolist(), rows[order].tolist(), strict=True):
            found, target = self._find(row), out[place]
            if found is None:
                absent.append(place)
                continue
            read, offset, size = found
            assert isinstance(read, _LocalRanges)
            piece = target.data if self._is_kept_as_read and size == target.nbytes else bytearray(size)
            if read.at_once(offset, piece, size):
                self._decode(row, piece, target)
            else:
                waiting.append((row, target, read, offset, piece, size))
        for row, target, read, offset, piece, size in waiting:
            if read.into(offset, piece) != size:
                raise self._damaged(row, "the file ends within them")
            self._decode(row, piece, target)
        return absent

    def _decode(self, row: int, piece: memoryview | bytearray, target: np.ndarray) -> None:
        if isinstance(piece, bytearray):
            target[:] = self.stored(row, piece)

    def _request(self, row: int, target: np.ndarray) -> bool:
        """Read one row; False where there is none."""
        chunk = self.chunk(row)
        if chunk is not None:
            target[:] = self.stored(row, chunk)
        return chunk is not None

    def _find(self, row: int) -> "tuple[_Ranges | _LocalRanges | _Bytes, int, int] | None":
        """What reads the file of a row, and offset and size of its chunk there; None where the store holds none."""
        number, slot = divmod(row, self._rows_per_shard)
        try:
            return self._shard(number).find(slot)
        except FileNotFoundError:  # pending
            return None

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
    """Parts of a file."""

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

    def at_once(self, start: int, target: memoryview | bytearray, size: int) -> bool:
        """Fill `target`, of so many bytes, if the page cache has them all; otherwise ask the disk for them."""
        try:
            if os.preadv(self._descriptor, [target], start, _NOT_WAITING) == size:
                return True
        except OSError:  # it has none of them, or the file system does not tell
            pass
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(self._descriptor, start, size, os.POSIX_FADV_WILLNEED)
        return False

    def into(self, start: int, target: memoryview | bytearray) -> int:
        """Fill `target`; returns how many bytes there were for it."""
        return os.preadv(self._descriptor, [target], start)


class _Bytes:
    """Parts of a file that was read."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def __call__(self, start: int, size: int) -> bytes:
        return bytes(self._data[start:][:size])


class _OpenShard:
    """One shard file and its index."""

    def __init__(self, read: _Ranges | _LocalRanges | _Bytes, path: str, num_chunks: int) -> None:
        self._read = read
        tail_bytes = num_chunks * 16 + CRC_BYTES
        tail = read(-tail_bytes, tail_bytes)
        index, crc = tail[:-CRC_BYTES], tail[-CRC_BYTES:]
        if len(tail) < tail_bytes or crc32c_of(index) != int.from_bytes(crc, "little"):
            raise StoreError(f"{path} is damaged: its index does not match its checksum")
        # Single numbers come out of a memoryview several times as fast as out of an array.
        self._index = np.frombuffer(index, "<u8").astype(np.uint64).data

    def find(self, slot: int) -> tuple[_Ranges | _LocalRanges | _Bytes, int, int] | None:
        """What reads the file, and offset and size of the chunk in a slot; None where there is none."""
        offset = self._index[2 * slot]
        return None if offset == ABSENT else (self._read, offset, self._index[2 * slot + 1])

    def chunk(self, slot: int) -> bytes | None:
        """The compressed latents in a slot; None where there are none."""
        found = self.find(slot)
        return None if found is None else self._read(*found[1:])


def _num_shards_open() -> int:
    """A quarter of the files that this process may have open, for there may be a reader for a mirrored view too."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_SHARDS_OPEN if limit == resource.RLIM_INFINITY else max(1, min(limit // 4, _MOST_SHARDS_OPEN))
