"""Writes shards of a store, one at a time, in the order that keeps a reader right at any instant.

The order is latents, side arrays, status, record: where `status` says ok, the latents have been written. The rows that
a reopened shard keeps have the same latents in its old file and its new one, so its files may be replaced one by one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from tcae_cli.reports.failure import Failure
from tcae_cli.runtime.checksums import crc32c_of
from tcae_cli.runtime.folder import Folder
from tcae_cli.store.claims import Claim
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.kept_rows import KeptRows
from tcae_cli.store.layout import shard_file
from tcae_cli.store.quantise import as_float
from tcae_cli.store.record import FileRecord, ShardRecord, read_records, record_file, record_name
from tcae_cli.store.row_chunks import RowChunks
from tcae_cli.store.shard_file import ShardFileWriter
from tcae_cli.store.side_chunks import SideChunks
from tcae_cli.store.spec import FAILED, OK, PENDING, StoreSpec
from tcae_cli.store.statistics import LatentMoments, Moments


@dataclass(frozen=True)
class ShardPlan:
    """The work that is left on a shard."""

    shard: int
    rows: range
    todo: Sequence[int]  # rows to encode, ascending, maybe none; the others stay as `record` has them
    record: ShardRecord | None
    claim: Claim | None = None  # in a launch of several ranks, once this one may write the shard
    store: int = 0  # the number of its store among those of the run: that of its bucket, or 0


@dataclass(frozen=True)
class EncodedRows:
    """The rows of one batch, k of which were encoded. The values of failed rows are ignored."""

    rows: Sequence[int]  # the whole batch: consecutive rows of the store, once they have been numbered
    todo: Sequence[int]  # the k rows, ascending
    latents: Mapping[str, np.ndarray]  # of each latent array, [k, c, h, w], the store's dtype
    moments: Mapping[str, Moments | None]  # of each latent array, over the ok rows of the k; None if there are none
    original_sizes: np.ndarray  # [k, 2], int32
    crops: Mapping[str, np.ndarray]  # by array name, [k, 4], int32
    content_hashes: np.ndarray  # [k], uint64
    failures: Mapping[int, Failure]  # by row
    num_again: int = 0  # rows encoded once more in float32
    num_clipped: Mapping[str, int] | None = None  # of each int8 array of latents

    def numbered(self, rows: range) -> "EncodedRows":
        """Return the batch with the numbers that its rows have in the store."""
        number_of = dict(zip(self.rows, rows, strict=True))
        failures = {number_of[row]: replace(failure, row=number_of[row]) for row, failure in self.failures.items()}
        return replace(self, rows=rows, todo=[number_of[row] for row in self.todo], failures=failures)


def plan_shards(folder: Folder, spec: StoreSpec, shards: Sequence[int]) -> list[ShardPlan]:
    """Return a plan for each of these shards of a store that still needs work; only reads."""
    plans = []
    for shard, record in read_records(folder, shards, folder.sizes()):
        rows = spec.rows_of_shard(shard)
        if record is None:
            plans.append(ShardPlan(shard, rows, rows, None))
        elif not record.is_committed(spec):
            again = [failure.row for failure in record.failures_to_retry] if record.reopened else []
            appended = range(rows.start + record.num_rows, rows.stop)
            plans.append(ShardPlan(shard, rows, [*again, *appended], record))
    return plans


class StoreWriter:
    """Writes shards of an open store.

    `check` is called before a shard is begun or committed; it raises if this process must no longer write.
    """

    def __init__(self, store: StoreHandle, check: Callable[[], None] = lambda: None) -> None:
        self.folder = store.folder
        self.spec = store.spec
        self.codec = RowChunks(store.spec)
        self.side = SideChunks(store)
        self.check = check

    def check_plan(self, plan: ShardPlan) -> None:
        """Raise StoreError if this process must no longer write, ClaimLost if it must not write this shard."""
        self.check()
        if plan.claim:
            plan.claim.check()

    def leftovers(self, shard: int) -> list[str]:
        """Return the files that must not be mistaken for those of new rows, should a killed process have left them."""
        return [shard_file(self.spec, "status", shard), record_name(shard)]

    def plan(self, shards: Sequence[int]) -> list[ShardPlan]:
        """Return a plan for each of these shards that still needs work."""
        return plan_shards(self.folder, self.spec, shards)

    def begin(
        self, plan: ShardPlan, *, keys: Sequence[str], labels: np.ndarray, captions: Sequence[str] | None
    ) -> "ShardInProgress":
        """Begin to write a shard; keys, labels and captions are those of all its rows.

        Raises ClaimLost, as its methods do, once another rank has claimed the shard.
        """
        self.check_plan(plan)
        if plan.record is None and plan.claim is None:
            self.folder.remove(self.leftovers(plan.shard))
        side = {"keys": np.array(keys, object), "labels": labels}
        if captions is not None:
            side["captions"] = np.array(captions, object)
        return ShardInProgress(self, plan, side)


class ShardInProgress:
    """Collects the batches of one shard, in order, and then commits it."""

    def __init__(self, writer: StoreWriter, plan: ShardPlan, side: dict[str, np.ndarray]) -> None:
        self._writer = writer
        self._plan = plan
        self._kept = KeptRows(writer.folder, writer.spec, writer.side, plan.record) if plan.record else None
        spec, num_rows = writer.spec, len(plan.rows)
        self._side = side | {
            "content_hash": np.zeros(num_rows, np.uint64),
            "original_size": np.zeros((num_rows, 2), np.int32),
            **{spec.crop_name(size): np.zeros((num_rows, 4), np.int32) for size in spec.sizes},
            "status": np.full(num_rows, PENDING, np.uint8),
        }
        self._files = {
            view: ShardFileWriter(writer.folder.begin(shard_file(spec, view, plan.shard)), spec.rows_per_shard)
            for view in spec.latent_arrays
        }
        self._moments: dict[str, Moments | None] = dict.fromkeys(spec.latent_arrays)
        self._failures: list[Failure] = []
        self._num_again = plan.record.num_again if plan.record else 0
        self._num_clipped = dict(plan.record.num_clipped) if plan.record else {}
        self._next_row = plan.rows.start

    def add(self, encoded: EncodedRows) -> None:
        """Append a batch; the batches between it and the previous one consist of kept rows alone."""
        self._keep_until(encoded.rows[0])

        # The side arrays come before the latents, which are appended by each row's status.
        slots = np.array(encoded.todo, np.int64) - self._plan.rows.start
        failed = np.array([row in encoded.failures for row in encoded.todo], bool)
        self._side["status"][slots] = np.where(failed, FAILED, OK)
        self._side["content_hash"][slots] = encoded.content_hashes
        self._side["original_size"][slots] = encoded.original_sizes
        for name, crops in encoded.crops.items():
            self._side[name][slots] = crops
        self._failures += encoded.failures.values()

        self._append(encoded.rows, encoded)
        self._num_again += encoded.num_again
        for view, count in (encoded.num_clipped or {}).items():
            self._num_clipped[view] = self._num_clipped.get(view, 0) + count

    def commit(self) -> ShardRecord:
        """Publish the files of the shard, then its record, which is returned."""
        check = partial(self._writer.check_plan, self._plan)
        check()
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
            replacing = self._plan.record.model_copy(update={"replacing": records})
            folder.write(self._writer.side.status_taken_back(shard, self._side), check=check)
            folder.write(record_file(spec, replacing), check=check)
        for file in self._files.values():
            check()
            file.publish()
        status_file = shard_file(spec, "status", shard)
        status, record = {status_file: chunks.pop(status_file)}, self._record(records)
        folder.write(chunks, status, record_file(spec, record), check=check)
        return record

    def abandon(self) -> None:
        """Discard an unfinished shard, none of which was visible."""
        for file in self._files.values():
            file.discard()

    def _keep_until(self, row: int) -> None:
        batch_size = self._writer.spec.compute.batch_size
        while self._next_row < row:
            self._append(range(self._next_row, min(self._next_row + batch_size, row)), None)

    def _append(self, rows: Sequence[int], encoded: EncodedRows | None) -> None:
        """Append the latents of one batch, some of whose rows may be kept; `encoded` is None if all are."""
        assert rows[0] == self._next_row
        self._next_row += len(rows)
        new = dict(zip(encoded.todo, range(len(encoded.todo)), strict=True)) if encoded else {}
        kept = [row for row in rows if row not in new] if len(new) < len(rows) else []
        if kept:
            assert self._kept
            self._failures += self._kept.take_side(kept, self._side)
        first = self._plan.rows.start
        is_ok = (self._side["status"][rows[0] - first : self._next_row - first] == OK).tolist()
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
            if encoded and not kept:
                moments = encoded.moments[view]
            else:
                moments = Moments.of(as_float(np.stack(values), self._writer.spec, view)) if values else None
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
