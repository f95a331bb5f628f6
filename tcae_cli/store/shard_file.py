"""The file of one latents shard: compressed chunks as they come, then their index (Zarr v3 sharding-indexed).

Format: inner chunks back to back; then for each a little-endian uint64 offset and size, 2**64 - 1 twice where absent;
then the CRC-32C of that index. Source: zarr-specs, docs/v3/codecs/sharding-indexed. zarr-python reads and writes the
same files, at about 1 ms a chunk (STORE sections 2 and 7).
"""

import os
import weakref
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd

from tcae_cli.errors import StoreError
from tcae_cli.runtime.files import disk_errors, rename_durably

_ABSENT = 2**64 - 1
_CRC_BYTES = 4
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


def crc32c_of(path: Path) -> int:
    """CRC-32C of a file's bytes."""
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while block := file.read(2**22):
            checksum.update(block)
    return int.from_bytes(checksum.digest(), "big")


class ShardFileWriter:
    """Appends chunks to a temporary file and gives it its name when it is whole."""

    def __init__(self, part: Path, final: Path, num_chunks: int) -> None:
        self._part, self._final = part, final
        self._index = np.full((num_chunks, 2), _ABSENT, "<u8")
        self._num_appended = self._size = 0
        self._checksum = google_crc32c.Checksum()
        with disk_errors(final):
            part.parent.mkdir(parents=True, exist_ok=True)
            self._file = part.open("xb")

    def append(self, chunk: bytes | None) -> None:
        """The next chunk, compressed; None where there is none: readers see the fill value."""
        if chunk is not None:
            self._index[self._num_appended] = self._size, len(chunk)
            self._write(chunk)
        self._num_appended += 1

    def finish(self) -> tuple[int, int]:
        """Write the index, make the file durable under its name, and return its size and CRC-32C."""
        index = self._index.tobytes()
        self._write(index)
        self._write(google_crc32c.value(index).to_bytes(_CRC_BYTES, "little"))
        with disk_errors(self._final):
            self._file.close()
            rename_durably(self._part, self._final)
        return self._size, int.from_bytes(self._checksum.digest(), "big")

    def abandon(self) -> None:
        """Drop what was written."""
        self._file.close()
        self._part.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        with disk_errors(self._final):
            self._file.write(data)
        self._checksum.update(data)
        self._size += len(data)


class ShardReader:
    """Reads single rows of a sharded array, [c, h, w] each, with one pread a row.

    Shares nothing that moves between threads or forked processes.
    """

    def __init__(
        self, folder: Path, *, rows_per_shard: int, sample_shape: tuple[int, ...], dtype: str, codec: str
    ) -> None:
        self._folder, self._rows_per_shard, self._codec = folder, rows_per_shard, chunk_codec(codec)
        self._sample_shape, self._dtype = sample_shape, np.dtype(dtype).newbyteorder("<")
        self._shard = lru_cache(_SHARDS_OPEN)(self._open)

    def read_into(self, row: int, out: np.ndarray) -> None:
        """Fill `out` with the latents of a row, NaN where the store holds none. Raises StoreError on damage."""
        number, slot = divmod(row, self._rows_per_shard)
        try:
            data = self._shard(number).chunk(slot)
        except FileNotFoundError:  # pending
            data = None
        if data is None:
            out.fill(np.nan)
            return
        try:
            out[:] = np.frombuffer(self._codec.decode(data), self._dtype).reshape(self._sample_shape)
        except (RuntimeError, ValueError) as error:
            raise StoreError(f"{self._path(number)}: the latents of row {row} are damaged ({error})") from error

    def _open(self, number: int) -> "_OpenShard":
        return _OpenShard(self._path(number), self._rows_per_shard)

    def _path(self, number: int) -> Path:
        return self._folder / shard_name(number)


def shard_name(number: int) -> str:
    """File name of a latents shard: its position along each axis, with "." between."""
    return f"c.{number}.0.0.0"


class _OpenShard:
    """One shard file and its index."""

    def __init__(self, path: Path, num_chunks: int) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        index_bytes = num_chunks * 16
        start = os.fstat(self._descriptor).st_size - index_bytes - _CRC_BYTES
        tail = os.pread(self._descriptor, index_bytes + _CRC_BYTES, start) if start >= 0 else b""
        index, crc = tail[:index_bytes], tail[index_bytes:]
        if len(crc) < _CRC_BYTES or google_crc32c.value(index) != int.from_bytes(crc, "little"):
            raise StoreError(f"{path} is damaged: its index does not match its checksum")
        self._index = np.frombuffer(index, "<u8").reshape(num_chunks, 2)

    def chunk(self, slot: int) -> bytes | None:
        offset, size = map(int, self._index[slot])
        return None if offset == _ABSENT else os.pread(self._descriptor, size, offset)
