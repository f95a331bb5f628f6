"""What somebody with zarr alone sees of a store, and which of its files a resume must leave alone."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import zarr

OK = 1
_BESIDE_STATUS = ("latents", "latents_flip", "content_hash", "keys", "labels")
_ROWS_OF_SHARD = 16


class Reference:
    """A store that was never interrupted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays = read_arrays(path)
        self.num_rows = len(self._arrays["status"])

    def ok_rows_of(self, store: Path) -> set[int]:
        """The rows that a store says are ok; asserts that what they hold equals this one's."""
        arrays = read_arrays(store)
        if "status" not in arrays:
            return set()
        rows = np.flatnonzero(arrays["status"] == OK)
        if rows.size:
            for name in _BESIDE_STATUS:
                found, wanted = arrays[name][rows], self._arrays[name][rows]
                if found.tobytes() != wanted.tobytes() if found.dtype.kind == "f" else (found != wanted).any():
                    same = [_same(a, b) for a, b in zip(found, wanted, strict=True)]
                    raise AssertionError(f"{store}: {name} of ok rows {rows[~np.array(same)]} is not right")
        return set(rows.tolist())

    def committed_files_of(self, store: Path, retries: bool) -> dict[str, bytes | int]:
        """Bytes of the records that need no more work, and when the files of their shards were written, by name."""
        files: dict[str, bytes | int] = {}
        for path in (store / ".tcae" / "commits").glob("*.json"):
            record = json.loads(path.read_bytes())
            num_rows = min(_ROWS_OF_SHARD, self.num_rows - record["first_row"])
            is_open = record["reopened"] or record["replacing"] or (retries and record["num_failed"])
            if not is_open and record["num_rows"] == num_rows:
                files[path.name] = path.read_bytes()
                files |= {name: (store / name).stat().st_mtime_ns for name in record["files"]}
        return files


def committed_rows_of(store: Path) -> set[int]:
    """The rows that are ok by the records, those of shards that are taken up again too."""
    rows: set[int] = set()
    for path in (store / ".tcae" / "commits").glob("*.json"):
        record = json.loads(path.read_bytes())
        failed = {failure["row"] for failure in record["failures"]}
        rows |= {record["first_row"] + slot for slot in range(record["num_rows"])} - failed
    return rows


def read_arrays(store: Path) -> dict[str, np.ndarray]:
    """The arrays a trainer reads, those that are there."""
    if not (store / "zarr.json").exists():
        return {}
    root = zarr.open_group(store, mode="r")
    return {name: root[name][:] for name in ("status", *_BESIDE_STATUS) if (store / name / "zarr.json").exists()}


def leftovers_of(store: Path) -> list[str]:
    """Files of a complete store that a kill left: unfinished ones, claims, indexes of earlier sources."""
    private = store / ".tcae"
    claims = [path for path in private.glob("leases/*") if _state_of(path) != "done"]  # that one is for late ranks
    partial = [*private.glob("part/*"), *store.rglob("*.partial")]
    root = json.loads((store / "zarr.json").read_bytes())
    current = root["attributes"]["source"]["fingerprint"]
    old_indexes = [path for path in private.glob("index/*/*") if path.parent.name != current]
    return [str(path.relative_to(store)) for path in (*partial, *claims, *old_indexes)]


def assert_committed_stay(before: Mapping[str, bytes | int], after: Mapping[str, bytes | int]) -> None:
    """Nothing that was committed was written again."""
    changed = [name for name, value in before.items() if after.get(name) != value]
    assert not changed, f"written again: {changed}"


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.array_equal(one, other))


def _state_of(path: Path) -> str:
    state: str = json.loads(path.read_bytes()).get("state", "")
    return state
