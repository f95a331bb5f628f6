"""Writes shards of a store, one at a time, in the order that keeps a reader right at any instant.

Latents, side arrays, status, record: where `status` says ok, the latents are there. Of a shard that is taken up again
the rows that are kept hold the same latents in the old file and the new one, so its files may change one by one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tcae_cli.reports.failure import Failure
from tcae_cli.runtime.folder import Folder
from tcae_cli.store.codecs.registry import CODECS
from tcae_cli.store.kept_rows import KeptRows
from tcae_cli.store.layout import read_spec, shard_file
from tcae_cli.store.quantise import as_float
from tcae_cli.store.record import (
    FileRecord,
    ShardRecord,
    read_records,
    record_file,
    record_name,
    write_record,
)
from tcae_cli.store.shard_file import ShardFileWriter, crc32c_of
from tcae_cli.store.side_chunks import SideChunks
from tcae_cli.store.spec import FAILED, OK, PENDING
from tcae_cli.store.statistics import LatentMoments, Moments


@dataclass(frozen=True)
class ShardPlan:
    """What is left to do of a shard."""

    shard: int
    rows: range
    todo: Sequence[int]  # rows to encode, ascending; the others stay as `record` has them
    record: ShardRecord | None


@dataclass(frozen=True)
class EncodedRows:
    """The rows of one batch; k of them were encoded. What failed holds anything."""

    rows: range  # the whole batch
    todo: Sequence[int]  # the k rows, ascending
    latents: Mapping[str, np.ndarray]  # of each view, [k, c, h, w], the store's dtype
    moments: Mapping[str, Moments | None]  # of each view, over the ok rows of the k; None if there are none
    original_sizes: np.ndarray  # [k, 2], int32
    crops: Mapping[str, np.ndarray]  # by array name, [k, 4], int32
    content_hashes: np.ndarray  # [k], uint64
    failures: Mapping[int, Failure]  # by row
    num_again: int = 0  # rows encoded once more in float32
    num_clipped: Mapping[str, int] | None = None  # of each int8 view


class StoreWriter:
    """The writing side of a store that exists."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.spec = folder, read_spec(folder)
        self.codec, self.side = CODECS[self.spec.codec](), SideChunks(folder, self.spec)

    def plan(self, shards: Sequence[int]) -> list[ShardPlan]:
        """Those of the shards that need work, and which rows of them."""
        plans = []
        for shard, record in read_records(self.folder, shards, self.folder.sizes()):
            rows = self.spec.rows_of_shard(shard)
            if record is None:
                plans.append(ShardPlan(shard, rows, rows, None))
            elif not record.is_committed(self.spec):
                again = [failure.row for failure in record.failures] if record.reopened else []
                appended = range(rows.start + record.num_rows, rows.stop)
                plans.append(ShardPlan(shard, rows, [*again, *appended], record))
        return plans

    def begin(
        self, plan: ShardPlan, *, keys: Sequence[str], labels: np.ndarray, captions: Sequence[str] | None
    ) -> "ShardInProgress":
        """Take up a shard; keys, labels and captions are those of all its rows."""
        if plan.record is None:  # what a kill left of it must not be taken for what is to come
            self.folder.remove([shard_file(self.spec, "status", plan.shard), record_name(plan.shard)])
        side = {"keys": np.array(keys, object), "labels": labels}
        if captions is not None:
            side["captions"] = np.array(captions, object)
        return ShardInProgress(self, plan, side)


class ShardInProgress:
    """A shard that takes batches, in order, and is then committed."""

    def __init__(self, writer: StoreWriter, plan: ShardPlan, side: dict[str, np.ndarray]) -> None:
        self._writer, self._plan, self._side = writer, plan, side
        self._kept = KeptRows(writer.folder, writer.spec, writer.side, plan.record) if plan.record else None
        spec, num_rows = writer.spec, len(plan.rows)
        side["content_hash"] = np.zeros(num_rows, np.uint64)
        side["original_size"] = np.zeros((num_rows, 2), np.int32)
        side |= {spec.crop_name(size): np.zeros((num_rows, 4), np.int32) for size in spec.sizes}
        side["status"] = np.full(num_rows, PENDING, np.uint8)
        self._files = {
            view: ShardFileWriter(writer.folder.begin(shard_file(spec, view, plan.shard)), spec.rows_per_shard)
            for view in spec.views
        }
        self._moments: dict[str, Moments | None] = dict.fromkeys(spec.views)
        self._failures: list[Failure] = []
        self._num_again = plan.record.num_again if plan.record else 0
        self._num_clipped = dict(plan.record.num_clipped) if plan.record else {}
        self._next_row = plan.rows.start

    def add(self, encoded: EncodedRows) -> None:
        """Append a batch; batches between it and the one before are of kept rows alone."""
        self._keep_until(encoded.rows.start)
        self._append(encoded.rows, encoded)
        self._num_again += encoded.num_again
        for view, count in (encoded.num_clipped or {}).items():
            self._num_clipped[view] = self._num_clipped.get(view, 0) + count

    def commit(self) -> ShardRecord:
        """Make the shard part of the store."""
        folder, spec, shard = self._writer.folder, self._writer.spec, self._plan.shard
        self._keep_until(self._plan.rows.stop)
        assert PENDING not in self._side["status"]
        for file in self._files.values():
            file.finish()
        chunks = {
            shard_file(spec, name, shard): self._writer.side.encode(name, shard, self._side[name])
            for name in spec.side_arrays
        }
        records = {shard_file(spec, view, shard): file.seal() for view, file in self._files.items()}
        records |= {name: FileRecord(size=len(data), crc32c=crc32c_of(data)) for name, data in chunks.items()}
        if self._plan.record:
            folder.write(self._writer.side.taken_back(folder, shard, self._side))
            write_record(folder, self._plan.record.model_copy(update={"replacing": records}))
        for file in self._files.values():
            file.publish()
        status_file = shard_file(spec, "status", shard)
        status, record = {status_file: chunks.pop(status_file)}, self._record(records)
        folder.write(chunks, status, record_file(record))
        return record

    def abandon(self) -> None:
        """Drop an unfinished shard; nothing of it was visible."""
        for file in self._files.values():
            file.discard()

    def _keep_until(self, row: int) -> None:
        batch_size = self._writer.spec.compute.batch_size
        while self._next_row < row:
            self._append(range(self._next_row, min(self._next_row + batch_size, row)), None)

    def _append(self, rows: range, encoded: EncodedRows | None) -> None:
        """The rows of one batch, of which some may be kept."""
        assert rows.start == self._next_row
        self._next_row = rows.stop
        new = dict(zip(encoded.todo, range(len(encoded.todo)), strict=True)) if encoded else {}
        if encoded:
            self._take_side(encoded)
        kept = [row for row in rows if row not in new] if len(new) < len(rows) else []
        if kept:
            assert self._kept
            self._failures += self._kept.take_side(kept, self._side)
        first = self._plan.rows.start
        is_ok = (self._side["status"][rows.start - first : rows.stop - first] == OK).tolist()
        for view, file in self._files.items():
            latents = np.ascontiguousarray(encoded.latents[view]) if encoded else np.empty(0)
            values: list[np.ndarray] = []
            for row, ok in zip(rows, is_ok, strict=True):
                if not ok:
                    file.append(None)
                elif row in new:
                    values.append(latents[new[row]])
                    file.append(self._writer.codec.encode(values[-1]))
                else:
                    assert self._kept
                    chunk, kept_latents = self._kept.latents(view, row)
                    values.append(kept_latents)
                    file.append(chunk)
            self._count(view, values, encoded if not kept else None)

    def _take_side(self, encoded: EncodedRows) -> None:
        slots = np.array(encoded.todo, np.int64) - self._plan.rows.start
        failed = np.array([row in encoded.failures for row in encoded.todo], bool)
        self._side["status"][slots] = np.where(failed, FAILED, OK)
        self._side["content_hash"][slots] = encoded.content_hashes
        self._side["original_size"][slots] = encoded.original_sizes
        for name, crops in encoded.crops.items():
            self._side[name][slots] = crops
        self._failures += encoded.failures.values()

    def _count(self, view: str, values: list[np.ndarray], encoded: EncodedRows | None) -> None:
        if encoded:
            moments = encoded.moments[view]
        elif values:
            moments = Moments.of(as_float(np.stack(values), self._writer.spec, view))
        else:
            return
        if moments:
            before = self._moments[view]
            self._moments[view] = before.merge(moments) if before else moments

    def _record(self, files: dict[str, FileRecord]) -> ShardRecord:
        moments = {view: LatentMoments.of(each).as_json() for view, each in self._moments.items() if each}
        return ShardRecord(
            shard=self._plan.shard,
            first_row=self._plan.rows.start,
            num_rows=len(self._plan.rows),
            num_ok=len(self._plan.rows) - len(self._failures),
            num_failed=len(self._failures),
            num_again=self._num_again,
            num_clipped=self._num_clipped,
            files=files,
            failures=sorted(self._failures, key=lambda failure: failure.row),
            statistics=moments or None,
        )
