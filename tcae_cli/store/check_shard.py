"""Checks a shard against its record: files, checksums, chunks, status and statistics.

Sentences name files inside the store. Memory holds one file at a time, of 256 MiB of raw latents at most.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from tcae_cli.errors import StoreError
from tcae_cli.runtime.checksums import crc32c_of
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import UPDATED, shard_file
from tcae_cli.store.quantise import FILL_VALUE, as_float
from tcae_cli.store.record import FileRecord, ShardRecord, parse_record, record_name
from tcae_cli.store.row_chunks import RowChunks
from tcae_cli.store.shard_reader import ShardReader
from tcae_cli.store.side_chunks import SideChunks
from tcae_cli.store.spec import FAILED, OK, PENDING
from tcae_cli.store.statistics import LatentMoments, Moments

_BATCH_ROWS = 64


@dataclass
class ShardCheck:
    """The problems and the counts that were found in one shard."""

    shard: int
    record: ShardRecord | None = None  # None if no readable record exists
    problems: list[str] = field(default_factory=list)
    num_files: int = 0
    num_bytes: int = 0
    ok_rows: list[int] = field(default_factory=list)  # as the record says, ascending
    content_hashes: np.ndarray | None = None  # of ok_rows, [k], uint64; None if their file is damaged


class ShardChecker:
    """Checks shards of a store; several threads may share a checker, each checking another shard.

    `with_side_arrays` is False if their metadata is damaged, so that their values cannot be read.
    """

    def __init__(self, store: StoreHandle, with_side_arrays: bool = True) -> None:
        self._folder, self._spec = store.folder, store.spec
        self._side = SideChunks(store) if with_side_arrays else None
        self._readers = {view: ShardReader(store.folder, store.spec, view) for view in store.spec.latent_arrays}

    def check(self, shard: int) -> ShardCheck:
        """Check a shard against its record; check again if another process writes it meanwhile."""
        while True:
            before = self._read_record(shard)
            found = self._check(shard, before)
            if not found.problems or self._read_record(shard) == before:
                return found

    def _read_record(self, shard: int) -> bytes | None:
        return next(iter(self._folder.read_many([record_name(shard)])))

    def _check(self, shard: int, data: bytes | None) -> ShardCheck:
        found = ShardCheck(shard)
        if data is None:
            return found
        try:
            record = parse_record(self._folder, shard, data)
        except StoreError as error:
            found.problems.append(str(error))
            return found
        if problem := self._is_not_of(shard, record):
            found.problems.append(problem)
            return found
        failed = {failure.row for failure in record.failures}
        rows = range(record.first_row, record.first_row + record.num_rows)
        found.record, found.ok_rows = record, [row for row in rows if row not in failed]
        for view in self._spec.latent_arrays:
            self._check_view(view, found, record)
        self._check_side(found, record, failed)
        return found

    def _is_not_of(self, shard: int, record: ShardRecord) -> str | None:
        """Return why this cannot be the record of the shard, as a sentence; None if it can."""
        rows, arrays = self._spec.rows_of_shard(shard), {*self._spec.latent_arrays, *self._spec.side_arrays}
        counts = (record.num_ok + record.num_failed, len(record.failures))
        if counts != (record.num_rows, record.num_failed) or record.num_rows > len(rows):
            return f"{record_name(shard)}: its counts of rows do not add up"
        files = {shard_file(self._spec, array, shard) for array in arrays}
        others = {name for name in record.files.keys() - files if name.partition("/")[0] not in UPDATED}
        # An update that was killed leaves records with its chunks, old or new, beside those of the root.
        if (record.shard, record.first_row) != (shard, rows.start) or others or files - record.files.keys():
            return f"{record_name(shard)} is the record of other files"
        try:
            for said in (record.statistics or {}).values():
                LatentMoments.from_json(said)
        except (KeyError, TypeError, ValueError):
            return f"{record_name(shard)}: its statistics are damaged"
        return None

    def _check_view(self, view: str, found: ShardCheck, record: ShardRecord) -> None:
        data, is_sound = self._read(shard_file(self._spec, view, found.shard), found, record)
        # Which chunks of a changed file are damaged can be told only where each has a checksum of its own.
        if data is None or not (is_sound or RowChunks(self._spec).has_checksum):
            return
        num_problems = len(found.problems)
        moments: Moments | None = None
        try:
            values = self._stored(view, data, found, record)
            while batch := list(islice(values, _BATCH_ROWS)):
                moments = Moments.of(as_float(np.stack(batch), self._spec, view)).merge(moments)
        except StoreError as error:
            found.problems.append(self._inside(error))
            return
        if is_sound and len(found.problems) == num_problems:
            differing = _differing(moments, record, view)
            if differing:
                where = record_name(found.shard)
                found.problems.append(f"{where}: {differing} of {view} is not that of the latents stored")

    def _stored(self, view: str, data: bytes, found: ShardCheck, record: ShardRecord) -> Iterator[np.ndarray]:
        """Yield the values of the undamaged ok rows, [c, h, w] each. Raises StoreError if the file has no index."""
        name, reader = shard_file(self._spec, view, found.shard), self._readers[view]
        opened, ok_rows = reader.whole(found.shard, data), set(found.ok_rows)
        for slot in range(self._spec.rows_per_shard):
            row, chunk = record.first_row + slot, opened.chunk(slot)
            if row not in ok_rows:
                if chunk is not None and not record.replacing:
                    found.problems.append(f"{name}: row {row} has latents and is not ok")
                continue
            if chunk is None:
                found.problems.append(f"{name}: row {row} is ok and has no latents")
                continue
            try:
                values = reader.stored(row, chunk)
            except StoreError as error:
                found.problems.append(self._inside(error))
                continue
            if not np.isfinite(values).all() or (values.dtype == np.int8 and (values == FILL_VALUE).any()):
                found.problems.append(f"{name}: the latents of row {row} are not finite")
                continue
            yield values

    def _check_side(self, found: ShardCheck, record: ShardRecord, failed: set[int]) -> None:
        for array in self._spec.side_arrays:
            name = shard_file(self._spec, array, found.shard)
            data, is_sound = self._read(name, found, record)
            if data is None or not is_sound or self._side is None:
                continue
            if array == "content_hash":
                slots = np.array(found.ok_rows, np.int64) - record.first_row
                found.content_hashes = self._side.decode(array, found.shard, data)[slots]
            if array == "status":
                status = self._side.decode(array, found.shard, data)
                found.problems += _wrong_status(name, status, record, failed)

    def _read(self, name: str, found: ShardCheck, record: ShardRecord) -> tuple[bytes | None, bool]:
        """Return the bytes of a file, None if it cannot be read, and whether it is the file that was committed."""
        try:
            data = self._folder.read(name)
        except OSError as error:
            is_gone = isinstance(error, FileNotFoundError)
            reason = "is missing" if is_gone else f"cannot be read ({error.strerror or error})"
            found.problems.append(f"{name} {reason}")
            return None, False
        found.num_files += 1
        found.num_bytes += len(data)
        is_now, was = FileRecord(size=len(data), crc32c=crc32c_of(data)), record.files[name]
        is_sound = is_now in (was, record.replacing.get(name, was))
        if not is_sound:
            found.problems.append(
                f"{name} has {is_now.size:,} bytes, {was.size:,} were committed"
                if is_now.size != was.size
                else f"{name} has been changed: its CRC-32C is {is_now.crc32c:08x}, {was.crc32c:08x} was committed"
            )
        return data, is_sound

    def _inside(self, error: StoreError) -> str:
        return str(error).removeprefix(f"{self._folder.uri}/")


def _wrong_status(name: str, status: np.ndarray, record: ShardRecord, failed: set[int]) -> list[str]:
    """Return how a shard's status differs from its record; only ok rows count while its files are being replaced."""
    wanted = np.full(len(status), PENDING, np.uint8)
    wanted[: record.num_rows] = OK
    wanted[[row - record.first_row for row in failed]] = FAILED
    differing = np.flatnonzero((status != wanted) & ((wanted == OK) | (not record.replacing)))
    if not len(differing):
        return []
    words, first = {OK: "ok", FAILED: "failed", PENDING: "pending"}, int(differing[0])
    more = f", and {len(differing) - 1} more differ" if len(differing) > 1 else ""
    found = words.get(int(status[first]), str(status[first]))
    return [f"{name}: row {record.first_row + first} is {found}, its record says {words[int(wanted[first])]}{more}"]


def _differing(moments: Moments | None, record: ShardRecord, view: str) -> str | None:
    """Return the name of the first statistic of a record that its latents do not have; None if they have all."""
    said = (record.statistics or {}).get(view)
    if moments is None or said is None:
        return None if moments is None and said is None else "the count of rows"
    found, committed = LatentMoments.of(moments), LatentMoments.from_json(said)
    if committed.num_rows != found.num_rows:
        return "num_rows"
    return next(iter(found.differing(committed.arrays())), None)
