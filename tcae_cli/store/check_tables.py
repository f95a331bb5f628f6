"""Checks a store's root, arrays' metadata, statistics and failures table against the records of its shards."""

from dataclasses import asdict
from typing import Any

import numpy as np
from zarr.core.metadata import ArrayV3Metadata

from tcae_cli.errors import StoreError
from tcae_cli.runtime.folder import Folder
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import BUCKETS, DAMAGED, ROOT, array_metadata, read_array
from tcae_cli.store.metadata import SEAL, parse_metadata
from tcae_cli.store.statistics import LatentMoments
from tcae_cli.store.totals import Totals

_DAMAGED = (OSError, StoreError)
_REPEAT = "repeat tcae encode-dataset, which writes it again"
_ROW_COUNTS = ("ok", "failed", "encoded_again_in_float32")


def check_arrays(store: StoreHandle) -> list[str]:
    """Return a sentence for each problem of the metadata of the store's arrays."""
    problems = []
    wanted = array_metadata(store.spec)
    for name, data in zip(wanted, store.folder.read_many(list(wanted)), strict=True):
        if name == f"{BUCKETS}/{ROOT}" and data is not None:  # of a group, with nothing in it
            continue
        if data is None:
            problems.append(f"{name} is missing; {_REPEAT}")
            continue
        try:
            # Both as this zarr writes them, since the store may have been made with another version.
            found, right = (_as_zarr_writes(parse_metadata(each)) for each in (data, wanted[name]))
        except DAMAGED:
            problems.append(f"{name} is damaged; remove it and {_REPEAT}")
            continue
        names = right.keys() - {"attributes"} - (set() if store.is_complete else {"shape"})  # rows may be appended
        differing = sorted(key for key in names if found.get(key) != right[key])
        attributes, said = right["attributes"], found["attributes"]
        differing += sorted(key for key in attributes.keys() - {SEAL} if said.get(key) != attributes[key])
        problems += [f"{name}: its {key} is not what the store's root describes" for key in differing]
    return problems


def _as_zarr_writes(metadata: dict[str, Any]) -> dict[str, Any]:
    return dict(ArrayV3Metadata.from_dict(metadata).to_dict())


def check_tables(store: StoreHandle, totals: Totals) -> list[str]:
    """Return a sentence for each difference between a complete store and the sums over its shards' records.

    totals: of a store of buckets, over all of them; the failures are in tables of theirs.
    """
    attributes, problems = store.attributes, []
    for name, count in zip(_ROW_COUNTS, (totals.num_ok, totals.num_failed, totals.num_again), strict=True):
        said = attributes.get("rows", {}).get(name)
        if said != count:
            problems.append(f"{ROOT}: rows.{name} is {said}, the records of the shards say {count}")
    if attributes.get("num_clipped") != totals.num_clipped:
        problems.append(
            f"{ROOT}: num_clipped is {attributes.get('num_clipped')}, the shards' records say {totals.num_clipped}"
        )
    said = attributes["statistics"] or {}
    if said.keys() != totals.moments.keys():
        problems.append(f"{ROOT}: statistics are of {', '.join(said) or 'no view'}, not of those with ok rows")
    for view, moments in totals.moments.items():
        problems += [
            f"{ROOT}: statistics.{view}.{name} is not that of the latents stored"
            for name, value in moments.summary().items()
            if not _is_close(said.get(view, {}).get(name), value, moments.tolerance())
        ]
        problems += _check_statistics(store.folder, view, moments)
    failures = [] if store.spec.buckets else _check_failures(store.folder, totals)
    return problems + failures + _check_groups(store, totals)


def _is_close(said: Any, value: Any, tolerance: float) -> bool:
    """Return whether a number, or a list of numbers, in the root's attributes equals the computed one."""
    said_values, values = np.asarray(said, object), np.asarray(value, np.float64)
    if said_values.shape != values.shape or not all(isinstance(each, int | float) for each in said_values.flat):
        return False
    return bool((np.abs(said_values.astype(np.float64) - values) <= tolerance).all())


def _check_statistics(folder: Folder, view: str, moments: LatentMoments) -> list[str]:
    """Return a sentence for each problem of the arrays of a view in the group `statistics`."""
    said, problems = {}, []
    for name in moments.arrays():
        try:
            said[name] = read_array(folder, f"statistics/{view}/{name}")
        except _DAMAGED as error:
            problems.append(_unreadable(f"statistics/{view}/{name}", error))
    wrong = [name for name in moments.differing(said) if name in said]
    return problems + [f"statistics/{view}/{name} is not that of the latents stored" for name in wrong]


def _unreadable(name: str, error: Exception) -> str:
    """Return the sentence on a table that cannot be read; the error's own advice is to verify the store."""
    return f"{name} cannot be read ({str(error).partition('; tcae verify')[0]}); {_REPEAT}"


def _check_groups(store: StoreHandle, totals: Totals) -> list[str]:
    """Return a sentence for each problem of the groups' metadata, and of the copies of metadata in the root."""
    groups = ["statistics", *(f"statistics/{view}" for view in totals.moments)]
    groups += [] if store.spec.buckets else ["failures"]
    arrays = [] if store.spec.buckets else [*store.spec.latent_arrays, *store.spec.side_arrays]
    names = [f"{node}/zarr.json" for node in (*groups, *arrays)]
    copies = store.consolidated
    problems = []
    for name, data in zip(names, store.folder.read_many(names), strict=True):
        node = name.removesuffix("/zarr.json")
        try:
            found = parse_metadata(data or b"")
        except ValueError as error:
            if node in groups:  # arrays are checked elsewhere
                found_as = f"{name} is damaged ({error})" if data is not None else f"{name} is missing"
                problems.append(f"{found_as}; {_REPEAT}")
            continue
        view = node.removeprefix("statistics/")
        if view in totals.moments and node != view and found["attributes"]["num_rows"] != totals.moments[view].num_rows:
            problems.append(f"{name}: its num_rows is not that of the latents stored")
        if node in copies and copies[node] != found:
            problems.append(f"{ROOT}: its copy of {name} is not the same")
    return problems


def _check_failures(folder: Folder, totals: Totals) -> list[str]:
    wanted = [asdict(failure) for failure in totals.failures]
    try:
        columns = {name: read_array(folder, f"failures/{name}").tolist() for name in ("row", "path", "stage", "error")}
    except _DAMAGED as error:
        return [_unreadable("failures", error)]
    if len({len(values) for values in columns.values()}) > 1:
        return ["failures: its columns have different lengths"]
    found = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if found == wanted:
        return []
    if len(found) != len(wanted):
        return [f"failures lists {len(found):,} rows, the shards' records {len(wanted):,}"]
    row = next(said["row"] for said, failure in zip(found, wanted, strict=True) if said != failure)
    return [f"failures: what it says of row {row} is not what its shard's record says"]
