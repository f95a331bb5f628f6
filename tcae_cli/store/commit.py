"""Finishes a store, which makes it complete, and reopens it.

Every process that sees all shards committed writes the same statistics and failures; the root that says `complete` is
written last.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tcae_cli.errors import StoreError
from tcae_cli.reports.failure import REPAIRED, REPAIRED_STAGE, Failure
from tcae_cli.runtime.folder import Folder
from tcae_cli.runtime.local_folder import PARTS, owner_of_part
from tcae_cli.store.claims import claimed_again, remove_claims, withdraw_mixed
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import INDEXES, PRIVATE_FOLDER, ROOT, index_folder, read_array, table_files
from tcae_cli.store.metadata import group_file, parse_metadata
from tcae_cli.store.record import read_records, write_record
from tcae_cli.store.spec import SourceIdentity, StoreSpec
from tcae_cli.store.totals import Totals

_TABLES = ("statistics", "failures")
# The names of files that are removed once they are out of date; whatever else lies beside them stays.
_TABLE_FILE = re.compile(r"(statistics|failures)/([\w.]+/)*(zarr\.json|c([./][0-9]+)*)")
_INDEX_FILE = re.compile(rf"{re.escape(INDEXES)}/[0-9a-f]+/[\w.]+\.(json|npy)")


def finalise(store: StoreHandle) -> bool:
    """Write the statistics, the failures table and, last, `complete`; return whether this process completed the store.

    Exactly one process gets True. The others get False, as does one that finds a shard not committed yet, or one whose
    record does not fit its files: it is then withdrawn.
    """
    store.refresh()  # rows may have been appended since this process opened the store
    generation, folder = store.generation, store.folder
    totals = totals_of(store)
    if totals is None or withdraw_mixed(folder, sorted(claimed_again(folder))):
        return False
    tables = statistics_files(store.spec, totals) | _failures_files(store.spec, totals)
    is_first = complete(store, generation, totals, tables)
    if is_first:
        remove_claims(folder)
    return is_first


def totals_of(store: StoreHandle) -> Totals | None:
    """Return the sums over the records of a store; None unless all its shards are committed."""
    totals = Totals()
    for _, record in read_records(store.folder, range(store.spec.num_shards), store.folder.sizes()):
        if record is None or not record.is_committed(store.spec):
            return None
        totals.add(record)
    return totals


def complete(
    store: StoreHandle, generation: int, totals: Totals, tables: Mapping[str, bytes], below: Mapping[str, bytes] = {}
) -> bool:
    """Write the tables of a store and, last, the root that says `complete`; return whether this process is the first.

    generation: of the store when its records were summed. below: the zarr.json files of groups in it, for the copies in
    the root.
    """
    folder = store.folder
    folder.write(tables)
    out_of_date = (name for prefix in _TABLES for name in folder.sizes(prefix) if name not in tables)
    folder.remove([name for name in out_of_date if _TABLE_FILE.fullmatch(name)])
    is_first = folder.create(_finished_name(generation), b"")

    store.refresh()
    if store.generation != generation:  # another process has reopened it meanwhile
        return False
    store.write_root(
        {**nodes_of(store), **below},
        rows={"ok": totals.num_ok, "failed": totals.num_failed, "encoded_again_in_float32": totals.num_again},
        num_clipped=totals.num_clipped,
        statistics={view: moments.summary() for view, moments in totals.moments.items()},
        complete=True,
    )
    return is_first


def reopen_unless_whole(store: StoreHandle) -> None:
    """Reopen a complete store that has lost files since, so that the command writes them again.

    Shards are encoded again where their files are gone or of another size; tables are written again where they cannot
    be read.
    """
    if not store.is_complete:
        forget_finish(store)
    elif not is_whole(store):
        reopen(store)


def is_whole(store: StoreHandle) -> bool:
    """Return whether a store is complete, has the files of all shards, and its tables can be read."""
    totals = totals_of(store) if store.is_complete else None
    if totals is None:
        return False
    return can_read_tables(store, statistics_files(store.spec, totals) | _failures_files(store.spec, totals))


def can_read_tables(store: StoreHandle, files: Iterable[str]) -> bool:
    """Return whether the tables that consist of these files can be read; they may hold other values."""
    nodes = [name for name in files if name.endswith("/zarr.json")]
    try:
        for node, data in zip(nodes, store.folder.read_many(nodes), strict=True):
            if parse_metadata(data or b"")["node_type"] == "array":
                read_array(store.folder, node.removesuffix("/zarr.json"))
    except (OSError, ValueError, StoreError):
        return False
    return True


def forget_finish(store: StoreHandle) -> None:
    """Let a process complete a store that is not complete, although one that was killed had begun to."""
    store.folder.remove([_finished_name(store.generation)])


def reopen_failed(store: StoreHandle, shards: Iterable[int]) -> int:
    """Mark the failed rows of these shards to be tried again, and return how many there are."""
    found = read_records(store.folder, list(shards), store.folder.sizes())
    failed = [record for _, record in found if record and record.failures_to_retry]
    if failed:
        reopen(store)
    for record in failed:
        write_record(store.folder, store.spec, record.model_copy(update={"reopened": True}))
    return sum(len(record.failures_to_retry) for record in failed)


def settle_repaired(store: StoreHandle, shards: Iterable[int], problem: Callable[[int], str]) -> None:
    """Let failed rows of these shards whose problem is REPAIRED now no longer count as failed.

    A complete store is reopened if there are any. A shard that was reopened for such rows alone is so no longer.
    """
    settled = []
    for _, record in read_records(store.folder, list(shards), store.folder.sizes()):
        found = [
            replace(failure, stage=REPAIRED_STAGE, error=REPAIRED) if problem(failure.row) == REPAIRED else failure
            for failure in (record.failures if record else ())
        ]
        if record and found != record.failures:
            reopened = record.reopened and any(failure.counts for failure in found)
            settled.append(record.model_copy(update={"failures": found, "reopened": reopened}))
    if settled:
        reopen(store)
    for record in settled:
        write_record(store.folder, store.spec, record)


def append_rows(store: StoreHandle, source: SourceIdentity) -> None:
    """Reopen the store with all rows of a source that has grown; the store's rows are the first of them."""
    reopen(store, source=source.model_dump(mode="json"))


def remove_old_indexes(store: StoreHandle) -> None:
    """Remove indexes that the root no longer names or, after a creation that was killed, never named."""
    current = index_folder(store.spec)
    old = [name for name in store.folder.sizes(INDEXES) if not name.startswith(f"{current}/")]
    store.folder.remove([name for name in old if _INDEX_FILE.fullmatch(name)])


def failed_rows(store: StoreHandle) -> list[int]:
    """Return the failed rows of committed shards, ascending."""
    found = read_records(store.folder, range(store.spec.num_shards), store.folder.sizes())
    return [failure.row for _, record in found if record for failure in record.failures]


def rows_without_latents(store: StoreHandle) -> list[int]:
    """Return the failed rows, and those of shards that are not committed, ascending."""
    rows: list[int] = []
    for shard, record in read_records(store.folder, range(store.spec.num_shards), store.folder.sizes()):
        rows += [failure.row for failure in record.failures] if record else store.spec.rows_of_shard(shard)
    return rows


def read_failures(folder: Folder) -> list[Failure]:
    """Return the failures table of a complete store.

    Raises the errors of read_array for missing or damaged columns, StoreError for columns of different lengths.
    """
    columns = [read_array(folder, f"failures/{name}").tolist() for name in ("row", "path", "stage", "error")]
    if len({len(values) for values in columns}) > 1:
        raise StoreError(f"{folder.uri}/failures is damaged (its columns have different lengths)")
    return [Failure(*values) for values in zip(*columns, strict=True)]


def clear_leftovers(folder: Folder, live_owners: Callable[[], set[str]]) -> None:
    """Remove temporary files that killed processes left; `live_owners` returns the processes that are alive."""
    names = folder.sizes(PARTS)
    # Called after files are listed: a process with a file there, other than its claim, has claimed the store by now.
    owners = live_owners()
    folder.remove([name for name in names if (owner := owner_of_part(name)) and owner not in owners])


def reopen(store: StoreHandle, **changes: Any) -> None:
    """Let a store count as not complete, with these changes of its root."""
    store.refresh()  # another part may have completed or reopened it since
    generation = store.generation + (1 if store.is_complete else 0)
    store.write_root(complete=False, statistics=None, generation=generation, **changes)


def nodes_of(store: StoreHandle) -> dict[str, bytes]:
    """Return the zarr.json of every group and array of a store but the private one, by name; none in version 1."""
    folder, spec = store.folder, store.spec
    if not spec.has_checksums:
        return {}
    tables = [name for prefix in _TABLES for name in folder.sizes(prefix) if name.endswith(f"/{ROOT}")]
    arrays = [] if spec.buckets else [f"{name}/{ROOT}" for name in (*spec.latent_arrays, *spec.side_arrays)]
    found = zip(names := [*arrays, *tables], folder.read_many(names), strict=True)
    return {name: data for name, data in found if data is not None}


def _finished_name(generation: int) -> str:
    """Return the name of the file whose creation decides which process completed this generation of the store."""
    return f"{PRIVATE_FOLDER}/finished.{generation}"


def statistics_files(spec: StoreSpec, totals: Totals) -> dict[str, bytes]:
    """Return the files of the statistics, a group for each view."""
    groups: dict[str, dict[str, Any]] = {"statistics": {}}  # with their attributes
    arrays: dict[str, tuple[np.ndarray, Sequence[str]]] = {}
    for view, moments in totals.moments.items():
        _, *dimensions = spec.dimension_names(view) or ()
        for name, values in moments.arrays().items():
            arrays[f"{view}/{name}"] = values, dimensions[:1] if values.ndim == 1 else dimensions[1:]
        groups[f"statistics/{view}"] = {"num_rows": moments.num_rows}
    return table_files(spec, "statistics", arrays) | _group_files(spec, groups)


def _failures_files(spec: StoreSpec, totals: Totals) -> dict[str, bytes]:
    """Return the files of the failures table, an array for each column."""
    row = np.array([failure.row for failure in totals.failures], np.int64)
    columns: dict[str, tuple[np.ndarray, Sequence[str]]] = {"row": (row, ["failure"])}
    for name in ("path", "stage", "error"):
        columns[name] = np.array([getattr(failure, name) for failure in totals.failures], object), ["failure"]
    return table_files(spec, "failures", columns) | _group_files(spec, {"failures": {}})


def _group_files(spec: StoreSpec, groups: Mapping[str, dict[str, Any]]) -> dict[str, bytes]:
    return {
        f"{group}/{ROOT}": group_file(attributes, attributes if spec.has_checksums else None)
        for group, attributes in groups.items()
    }
