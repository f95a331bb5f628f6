"""The finish that makes a store complete, and what opens it again.

Whoever sees every shard committed writes the same statistics and failures; the root that says `complete` comes last.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from zarr.storage import MemoryStore

from tcae_cli.reports.failure import Failure
from tcae_cli.runtime.folder import PARTS, Folder
from tcae_cli.store.layout import (
    INDEXES,
    PRIVATE_FOLDER,
    group_metadata,
    index_folder,
    read_attributes,
    read_spec,
    write_attributes,
)
from tcae_cli.store.record import ShardRecord, read_records, write_record
from tcae_cli.store.spec import SourceIdentity
from tcae_cli.store.statistics import LatentMoments

_CHUNK_ROWS = 65_536  # of the failures table


@dataclass
class Totals:
    """What the records of some shards add up to."""

    num_shards: int = 0
    num_ok: int = 0
    num_failed: int = 0
    num_again: int = 0
    num_clipped: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    moments: dict[str, LatentMoments] = field(default_factory=dict)  # of each view with ok rows

    def add(self, record: ShardRecord) -> None:
        """Count a shard; in shard order, so that sums have the same bits whoever adds them."""
        self.num_shards += 1
        self.num_ok += record.num_ok
        self.num_failed += record.num_failed
        self.num_again += record.num_again
        self.failures += record.failures
        for view, count in record.num_clipped.items():
            self.num_clipped[view] = self.num_clipped.get(view, 0) + count
        for view, data in (record.statistics or {}).items():
            moments, before = LatentMoments.from_json(data), self.moments.get(view)
            self.moments[view] = before.merge(moments) if before else moments


def finalise(folder: Folder) -> bool:
    """Write statistics, the failures table and, last, `complete`; True for the one process that completes the store.

    False if some shard is not committed yet, or another process was first.
    """
    spec, generation = read_spec(folder), read_attributes(folder)["generation"]
    sizes, totals = folder.sizes(), Totals()
    for _, record in read_records(folder, range(spec.num_shards), sizes):
        if record is None or not record.is_committed(spec):
            return False
        totals.add(record)
    tables = {**_statistics_files(totals.moments), **_failures_files(totals.failures)}
    folder.write(tables)
    folder.remove([name for name in sizes if name.startswith(("statistics/", "failures/")) and name not in tables])
    is_first = folder.create(_finished_name(generation), b"")
    attributes = read_attributes(folder)
    if attributes["generation"] != generation:  # opened again meanwhile
        return False
    rows = {"ok": totals.num_ok, "failed": totals.num_failed, "encoded_again_in_float32": totals.num_again}
    statistics = {view: moments.summary() for view, moments in totals.moments.items()}
    result = {"rows": rows, "num_clipped": totals.num_clipped, "statistics": statistics, "complete": True}
    write_attributes(folder, {**attributes, **result})
    return is_first


def reopen_unless_whole(folder: Folder) -> None:
    """Make a store that lost files since it was complete incomplete again, so that the command mends it."""
    attributes, spec = read_attributes(folder), read_spec(folder)
    if not attributes["complete"]:
        folder.remove([_finished_name(attributes["generation"])])  # of a finish that was killed
    elif not all(
        record and record.is_committed(spec)
        for _, record in read_records(folder, range(spec.num_shards), folder.sizes())
    ):
        _reopen(folder)


def reopen_failed(folder: Folder, shards: Iterable[int]) -> int:
    """Let the failed rows of these shards be tried again; returns how many there are."""
    found = read_records(folder, list(shards), folder.sizes())
    failed = [record for _, record in found if record and record.num_failed]
    if failed:
        _reopen(folder)
    for record in failed:
        write_record(folder, record.model_copy(update={"reopened": True}))
    return sum(record.num_failed for record in failed)


def append_rows(folder: Folder, source: SourceIdentity) -> None:
    """Give the store the rows of a source that has grown; its first rows are the store's. The root decides."""
    _reopen(folder, source=source.model_dump(mode="json"))


def remove_old_indexes(folder: Folder) -> None:
    """Remove what the root names no more, or, after a creation that was killed, never named."""
    current = index_folder(read_spec(folder))
    folder.remove([name for name in folder.sizes(INDEXES) if not name.startswith(f"{current}/")])


def failed_rows(folder: Folder) -> list[int]:
    """Rows of committed shards that have failed, ascending."""
    found = read_records(folder, range(read_spec(folder).num_shards), folder.sizes())
    return [failure.row for _, record in found if record for failure in record.failures]


def clear_leftovers(folder: Folder, live_owners: Callable[[], set[str]]) -> None:
    """Remove temporary files that kills left behind; live_owners gives the processes that are alive."""
    names = folder.sizes(PARTS)
    owners = live_owners()  # after the list: who has a file in it that is not its claim has claimed the store before
    folder.remove([name for name in names if name.rpartition("/")[2].partition(".")[0] not in owners])


def _reopen(folder: Folder, **changes: Any) -> None:
    attributes = read_attributes(folder)
    generation = attributes["generation"] + (1 if attributes["complete"] else 0)
    write_attributes(folder, {**attributes, "complete": False, "statistics": None, "generation": generation, **changes})


def _finished_name(generation: int) -> str:
    """Created by the process that completes the store, each time it is completed."""
    return f"{PRIVATE_FOLDER}/finished.{generation}"


def _statistics_files(moments: Mapping[str, LatentMoments]) -> dict[str, bytes]:
    """A group for each view, of float64 arrays: channel_mean [c], position_mean [h, w] and so on."""
    columns = {f"{view}/{name}": values for view, each in moments.items() for name, values in each.arrays().items()}
    groups = {f"statistics/{view}/zarr.json": group_metadata({"num_rows": m.num_rows}) for view, m in moments.items()}
    return {**_group_files("statistics", columns), **groups}


def _failures_files(failures: list[Failure]) -> dict[str, bytes]:
    """A table, one array a column."""
    columns: dict[str, np.ndarray] = {"row": np.array([failure.row for failure in failures], np.int64)}
    for name in ("path", "stage", "error"):
        columns[name] = np.array([getattr(failure, name) for failure in failures], object)
    return _group_files("failures", columns)


def _group_files(group: str, arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """The files of a Zarr group, by name in the store."""
    files: dict[str, Any] = {}
    for name, values in arrays.items():
        array = zarr.create_array(
            MemoryStore(files),
            name=f"{group}/{name}",
            shape=values.shape,
            dtype="string" if values.dtype == object else values.dtype,
            chunks=(max(1, min(len(values), _CHUNK_ROWS)), *values.shape[1:]),
        )
        if values.size:
            array[...] = values
    parents = {name: data.to_bytes() for name, data in files.items() if name.startswith(f"{group}/")}
    return {**parents, f"{group}/zarr.json": group_metadata({})}
