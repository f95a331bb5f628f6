"""The file of one latents shard: compressed chunks as they come, then their index (Zarr v3 sharding-indexed).

Format: inner chunks back to back; then for each a little-endian uint64 offset and size, 2**64 - 1 twice where absent;
then the CRC-32C of that index. Source: zarr-specs, docs/v3/codecs/sharding-indexed. zarr-python reads and writes the
same files, at about 1 ms a chunk (STORE sections 2 and 7).
"""

import os
import weakref
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd

from tcae_cli.errors import StoreError
from tcae_cli.runtime.folder import FileInProgress, Folder, LocalFolder
from tcae_cli.store.layout import shard_file
from tcae_cli.store.record import FileRecord
from tcae_cli.store.spec import StoreSpec

_ABSENT = 2**64 - 1
_CRC_BYTES = 4
_BLOCK_BYTES = 2**20  # written at a time
_BLOCKS_WAITING = 2  # to be written, at most: memory does not grow where the disk is slow
_SHARDS_OPEN = 256  # files and indexes a reader keeps; 64 KiB each at 4,096 rows


class ChunkCodec(Protocol):
    """Compresses the bytes of one chunk."""

    def encode(self, chunk: np.ndarray) -> bytes:
        """The compressed bytes."""

    def decode(self, data: bytes) -> bytes:
        """The bytes again; raises RuntimeError or ValueError if they are damaged."""


class _NoCodec:
    def encode(self, chunk: np.ndarray) -> bytes:
        return chunk.tobytes()

    def decode(self, data: bytes) -> bytes:
        return data


def chunk_codec(name: str) -> ChunkCodec:
    """The codec of a store, by its name there."""
    codecs: dict[str, ChunkCodec] = {
        "zstd": Zstd(level=1, checksum=True),
        "lz4-bitshuffle": Blosc(cname="lz4", clevel=5, shuffle=Blosc.BITSHUFFLE),
        "none": _NoCodec(),
    }
    return codecs[name]


def crc32c_of(data: bytes) -> int:
    """CRC-32C of some bytes."""
    return int(google_crc32c.value(data))


class ShardFileWriter:
    """Appends chunks to a file that is published when it is whole.

    A thread of the file's own writes them, a block at a time: who compresses does not wait for the disk.
    """

    def __init__(self, file: FileInProgress, num_chunks: int) -> None:
        self._file, self._num_chunks = file, num_chunks
        self._sizes: list[int] = []  # of each chunk so far; -1 where there is none
        self._size = 0
        self._checksum = google_crc32c.Checksum()
        self._block: list[bytes] = []  # chunks not written yet
        self._block_bytes = 0
        self._thread = ThreadPoolExecutor(1, "shard file")
        self._writing: deque[Future[None]] = deque()
        self._is_finished = False

    def append(self, chunk: bytes | None) -> None:
        """The next chunk, compressed; None where there is none: readers see the fill value."""
        if chunk is None:
            self._sizes.append(-1)
        else:
            self._sizes.append(len(chunk))
            self._write(chunk)

    def finish(self) -> None:
        """There are no more chunks: write the index, and begin to make the file durable."""
        index = _index(np.array(self._sizes, np.int64), self._num_chunks)
        self._write(index)
        self._write(crc32c_of(index).to_bytes(_CRC_BYTES, "little"))
        self._hand_over()
        self._writing.append(self._thread.submit(self._file.seal))
        self._is_finished = True

    def seal(self) -> FileRecord:
        """Wait until the file is whole and durable; it is not visible yet."""
        if not self._is_finished:
            self.finish()
        self._wait(0)
        self._thread.shutdown()
        return FileRecord(size=self._size, crc32c=int.from_bytes(self._checksum.digest(), "big"))

    def publish(self) -> None:
        """Give the file its name."""
        self._file.publish()

    def discard(self) -> None:
        """Drop what was written."""
        self._thread.shutdown()
        self._file.discard()

    def _write(self, data: bytes) -> None:
        self._block.append(data)
        self._size += len(data)
        self._block_bytes += len(data)
        if self._block_bytes >= _BLOCK_BYTES:
            self._hand_over()

    def _hand_over(self) -> None:
        self._wait(_BLOCKS_WAITING)
        self._writing.append(self._thread.submit(self._write_block, self._block))
        self._block, self._block_bytes = [], 0

    def _write_block(self, block: list[bytes]) -> None:
        self._file.write(*block)
        self._sum_up(block)

    def _sum_up(self, block: list[bytes]) -> None:
        for data in block:
            self._checksum.update(data)

    def _wait(self, num_left: int) -> None:
        while len(self._writing) > num_left:
            self._writing.popleft().result()


def _index(sizes: np.ndarray, num_chunks: int) -> bytes:
    """The index of chunks that lie back to back, -1 where there is none."""
    is_there = np.flatnonzero(sizes >= 0)
    ends = np.cumsum(sizes[is_there])
    index = np.full((num_chunks, 2), _ABSENT, "<u8")
    index[is_there, 0], index[is_there, 1] = ends - sizes[is_there], sizes[is_there]
    return index.tobytes()


class ShardReader:
    """Reads single rows of a view, [c, h, w] each, with one pread or one ranged request a row.

    Shares nothing that moves between threads or forked processes.
    """

    def __init__(self, folder: Folder, spec: StoreSpec, view: str) -> None:
        self._folder, self._spec, self._view = folder, spec, view
        self._codec = chunk_codec(spec.codec)
        self._shape, self._dtype = spec.sample_shape(view), np.dtype(spec.dtype).newbyteorder("<")
        self._shard = lru_cache(_SHARDS_OPEN)(self._open)

    def chunk(self, row: int) -> bytes | None:
        """The compressed latents of a row; None where the store holds none. Raises StoreError on damage."""
        number, slot = divmod(row, self._spec.rows_per_shard)
        try:
            return self._shard(number).chunk(slot)
        except FileNotFoundError:  # pending
            return None

    def stored(self, row: int, chunk: bytes) -> np.ndarray:
        """The values in a row's chunk, [c, h, w], in the store's dtype. Raises StoreError on damage."""
        try:
            return np.frombuffer(self._codec.decode(chunk), self._dtype).reshape(self._shape)
        except (RuntimeError, ValueError) as error:
            path = self._path(row // self._spec.rows_per_shard)
            raise StoreError(f"{path}: the latents of row {row} are damaged ({error})") from error

    def whole(self, number: int, data: bytes) -> "_OpenShard":
        """A shard whose file was read already. Raises StoreError on damage of its index."""
        return _OpenShard(_Bytes(data), self._path(number), self._spec.rows_per_shard)

    def _open(self, number: int) -> "_OpenShard":
        name = shard_file(self._spec, self._view, number)
        folder = self._folder
        read = _LocalRanges(folder.path / name) if isinstance(folder, LocalFolder) else _Ranges(folder, name)
        return _OpenShard(read, self._path(number), self._spec.rows_per_shard)

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
        tail_bytes = num_chunks * 16 + _CRC_BYTES
        tail = read(-tail_bytes, tail_bytes)
        index, crc = tail[:-_CRC_BYTES], tail[-_CRC_BYTES:]
        if len(tail) < tail_bytes or crc32c_of(index) != int.from_bytes(crc, "little"):
            raise StoreError(f"{path} is damaged: its index does not match its checksum")
        self._index = np.frombuffer(index, "<u8").reshape(num_chunks, 2)

    def chunk(self, slot: int) -> bytes | None:
        """The compressed latents in a slot; None where there are none."""
        offset, size = map(int, self._index[slot])
        return None if offset == _ABSENT else self._read(offset, size)
