"""Reads single rows of a view from its shard files, without the rest of their shard."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import count
from typing import Generic, Protocol, TypeVar

import numpy as np

from tcae_cli.errors import StoreError
from tcae_cli.runtime.checksums import CRC_BYTES, crc32c_of
from tcae_cli.runtime.folder import Folder, Ranges
from tcae_cli.store.layout import ROOT, shard_file
from tcae_cli.store.row_chunks import OTHER_CRC32C, RowChunks
from tcae_cli.store.shard_file import ABSENT
from tcae_cli.store.spec import StoreSpec

_REQUESTS_TOGETHER = 32  # of rows of a remote store
_READS_TOGETHER = 64  # that a disk works on for one thread
_MOST_SHARDS_OPEN = 1024  # indexes, and files, that a reader keeps; 64 KiB each at 4,096 rows
_NUMBERS = count(1)  # of editions


class _Readable(Protocol):
    def read(self, start: int, size: int) -> bytes:
        """Return a range of a file, as Ranges.read does."""


File = TypeVar("File", bound=_Readable)
Result = TypeVar("Result")


class ShardReader:
    """Reads single rows of a view, [c, h, w] each, without the rest of their shard.

    Shares nothing that moves between threads or forked processes.
    """

    def __init__(self, folder: Folder, spec: StoreSpec, view: str) -> None:
        self._folder = folder
        self._spec = spec
        self._view = view
        self._chunks = RowChunks(spec)
        self._rows_per_shard = spec.rows_per_shard
        self._shape = spec.sample_shape(view)
        self._dtype = np.dtype(spec.dtype).newbyteorder("<")
        self._is_kept_as_read = self._chunks.is_raw and self._dtype.isnative
        self._opened = lru_cache(min(folder.most_open, _MOST_SHARDS_OPEN))(self._open)
        self._touched: set[int] = set()  # shards that were opened, or were pending, at least once
        self._edition = _Edition()

    def read(self, rows: np.ndarray, out: np.ndarray) -> list[int]:
        """Read the values of rows, in any order, into `out`, [k, c, h, w], contiguous, in the store's dtype.

        Returns the places among them of rows that the store holds no latents of. Raises StoreError on damage.

        Rows that are available, in the page cache or from a remote store, are read at once. The others are requested
        from the disk well before they are waited for, so that it works on many reads at a time, for one thread too.
        """
        if self._folder.keeps_opened:
            return self._read(rows, out)

        def read_apart() -> tuple[np.ndarray, list[int]]:
            # Threads of a read that was given up may go on filling its memory.
            apart = np.empty_like(out)
            return apart, self._read(rows, apart)

        out[:], absent = self.unless_replaced(np.unique(rows // self._rows_per_shard).tolist(), read_apart)
        return absent

    def unless_replaced(self, shards: Sequence[int], read: Callable[[], Result]) -> Result:
        """Return what `read` reads of shards, again if another process has replaced them meanwhile or since.

        An index that was read of one file is of no use for another, whose chunks lie elsewhere.
        """
        if self._folder.keeps_opened:
            return read()
        edition = self._edition if self._edition.is_complete else self._look(shards)
        while True:
            try:
                found = read()
            except (StoreError, OSError):
                if edition == (edition := self._look(shards)):
                    raise
            else:
                if edition == (edition := self._look(shards)):
                    return found

    def _read(self, rows: np.ndarray, out: np.ndarray) -> list[int]:
        self._touch_shards((rows // self._rows_per_shard).tolist())
        absent: list[int] = []
        asked: deque[_Asked] = deque()
        places = np.argsort(rows).tolist()  # one shard after another, forward in each
        begun = self._folder.in_order(partial(self._begin, rows.tolist(), out), places, _REQUESTS_TOGETHER)
        for place, state in zip(places, begun, strict=True):
            if state is False:
                absent.append(place)
            elif state is not True:
                asked.append(state)
                if len(asked) > _READS_TOGETHER:
                    self._finish(asked.popleft())
        for each in asked:
            self._finish(each)
        return absent

    def chunk(self, row: int) -> bytes | None:
        """Return the compressed latents of a row; None if the store holds none. Raises StoreError on damage."""
        number, slot = divmod(row, self._rows_per_shard)
        try:
            return self._shard(number).chunk(slot)
        except FileNotFoundError:  # pending
            return None

    def stored(self, row: int, chunk: bytes | bytearray) -> np.ndarray:
        """Return the values in a row's chunk, [c, h, w], in the store's dtype. Raises StoreError on damage."""
        try:
            return np.frombuffer(self._chunks.decode(chunk), self._dtype).reshape(self._shape)
        except (RuntimeError, ValueError) as error:
            raise self._damaged(row, str(error)) from error

    def whole(self, number: int, data: bytes) -> "_OpenShard[_Bytes]":
        """Return a shard whose file was read already. Raises StoreError on damage of its index."""
        return _OpenShard(_Bytes(data), self._path(number), self._rows_per_shard)

    def _look(self, shards: Sequence[int]) -> "_Edition":
        """Return the edition of the store now, as far as these shards are concerned; forget indexes of another one.

        The root of a complete store is written before any of its shards is replaced. While it is not complete, shards
        may be replaced at any time, and the indexes are compared themselves.
        """
        try:
            root = self._folder.read(ROOT)
        except FileNotFoundError as error:
            raise StoreError(f"{self._folder.uri} is no longer there") from error
        if root == self._edition.root and self._edition.is_complete:
            return self._edition
        self._edition = _Edition(root, bool(json.loads(root)["attributes"]["complete"]), number=next(_NUMBERS))
        self._touched = set()
        if self._edition.is_complete:
            return self._edition
        self._touch_shards(shards)
        return replace(self._edition, indexes=tuple(self._index(number) for number in shards))

    def _index(self, number: int) -> bytes | None:
        try:
            return self._shard(number).index
        except FileNotFoundError:  # pending
            return None

    def _shard(self, number: int) -> "_OpenShard[Ranges]":
        return self._opened(number, self._edition.number)

    def _touch_shards(self, shards: Iterable[int]) -> None:
        """Open the shards that rows are first read from, once: each of many requests at a time would open its own."""
        new = set(shards) - self._touched
        for _ in self._folder.in_order(self._is_written, sorted(new), _REQUESTS_TOGETHER):
            pass
        self._touched |= new

    def _is_written(self, number: int) -> bool:
        try:
            self._shard(number)
        except FileNotFoundError:  # pending
            return False
        return True

    def _begin(self, rows: list[int], out: np.ndarray, place: int) -> "bool | _Asked":
        """Read the row at a place, if it is available, and return True; otherwise request it from the disk.

        Returns False if the store holds no latents of the row. A row that needs no decoding goes straight to `out`.
        """
        row = rows[place]
        target = out[place]
        number, slot = divmod(row, self._rows_per_shard)
        try:
            shard = self._shard(number)
        except FileNotFoundError:  # pending
            return False
        found = shard.find(slot)
        if found is None:
            return False
        offset, size = found
        crc_bytes = self._chunks.crc_bytes
        if not self._is_kept_as_read or size != target.nbytes + crc_bytes:
            pieces: tuple[memoryview | bytearray, ...] = (bytearray(size),)
        else:
            pieces = (target.data, bytearray(crc_bytes)) if crc_bytes else (target.data,)
        if not shard.file.fill_now(pieces, offset, size):
            return _Asked(row, shard.file, offset, size, pieces, target)
        self._decode(row, pieces, target)
        return True

    def _finish(self, asked: "_Asked") -> None:
        if not asked.file.fill(asked.pieces, asked.offset, asked.size):
            raise self._damaged(asked.row, "the file ends within them")
        self._decode(asked.row, asked.pieces, asked.target)

    def _decode(self, row: int, pieces: tuple[memoryview | bytearray, ...], target: np.ndarray) -> None:
        """Fill the target from the pieces of a chunk, unless they are its own memory; compare its checksum."""
        if isinstance(pieces[0], bytearray):
            target[:] = self.stored(row, pieces[0])
        elif len(pieces) > 1 and crc32c_of(target) != int.from_bytes(pieces[1], "little"):
            raise self._damaged(row, OTHER_CRC32C)

    def _open(self, number: int, edition: int) -> "_OpenShard[Ranges]":
        file = self._folder.ranges(shard_file(self._spec, self._view, number))
        return _OpenShard(file, self._path(number), self._rows_per_shard)

    def _damaged(self, row: int, reason: str) -> StoreError:
        path = self._path(row // self._rows_per_shard)
        return StoreError(f"{path}: the latents of row {row} are damaged ({reason})")

    def _path(self, number: int) -> str:
        return f"{self._folder.uri}/{shard_file(self._spec, self._view, number)}"


@dataclass(frozen=True)
class _Edition:
    """The contents of a store between two changes of its shards."""

    root: bytes = b""  # its zarr.json
    is_complete: bool = False
    indexes: tuple[bytes | None, ...] = ()  # of the shards that are read, while it is not complete
    number: int = field(default=0, compare=False)  # indexes that were read of another one are not used


@dataclass(frozen=True)
class _Asked:
    """A row that was requested from the disk."""

    row: int
    file: Ranges
    offset: int
    size: int  # bytes
    pieces: tuple[memoryview | bytearray, ...]
    target: np.ndarray  # the memory of the first piece, unless it has to be decoded


class _Bytes:
    """A file whose bytes are in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def read(self, start: int, size: int) -> bytes:
        return bytes(self._data[start:][:size])


class _OpenShard(Generic[File]):
    """One shard file and its index."""

    def __init__(self, file: File, path: str, num_chunks: int) -> None:
        self.file = file
        tail_bytes = num_chunks * 16 + CRC_BYTES
        tail = file.read(-tail_bytes, tail_bytes)
        index, crc = tail[:-CRC_BYTES], tail[-CRC_BYTES:]
        if len(tail) < tail_bytes or crc32c_of(index) != int.from_bytes(crc, "little"):
            raise StoreError(f"{path} is damaged: its index does not match its checksum")
        # Single numbers come out of a memoryview several times as fast as out of an array.
        self._index = np.frombuffer(index, "<u8").astype(np.uint64).data

    @property
    def index(self) -> bytes:
        """Return the offsets and sizes of all slots."""
        return self._index.tobytes()

    def find(self, slot: int) -> tuple[int, int] | None:
        """Return offset and size of the chunk in a slot; None if it is empty."""
        offset = self._index[2 * slot]
        return None if offset == ABSENT else (offset, self._index[2 * slot + 1])

    def chunk(self, slot: int) -> bytes | None:
        """Return the compressed latents in a slot; None if it is empty."""
        place = self.find(slot)
        return None if place is None else self.file.read(*place)
