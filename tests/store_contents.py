"""What is in a store: its arrays as a plain Zarr reader finds them, its attributes and its files."""

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import s3fs
import zarr

from tcae_cli.errors import StoreError
from tcae_cli.store.metadata import metadata_file, sealed_names


def arrays_of(store: Path | str) -> dict[str, np.ndarray]:
    """Every array of a store, by its path inside."""
    with local(store) as path, warnings.catch_warnings(action="ignore"):  # zarr does not know .tcae
        members = zarr.open_group(path, mode="r").members(max_depth=None)
        return {name: array[:] for name, array in members if isinstance(array, zarr.Array)}


def attributes_of(store: Path | str) -> dict[str, Any]:
    """The root attributes of a store."""
    with local(store) as path:
        return dict(zarr.open_group(path, mode="r").attrs)


@contextmanager
def local(store: Path | str) -> Iterator[Path]:
    """A store, or a copy of one in a bucket: zarr would leave a connection of its own open."""
    if "://" not in str(store):
        yield Path(store)
        return
    with TemporaryDirectory() as scratch:
        s3fs.S3FileSystem().get(f"{store}/", f"{scratch}/store.zarr/", recursive=True)
        yield Path(scratch) / "store.zarr"


def files_of(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def refused(encode, source: Path, store: Path, **options) -> str:
    """The sentence with which a store that stays as it is was refused."""
    before = files_of(store)
    with pytest.raises(StoreError) as raised:
        encode(source, store, **options)
    assert files_of(store) == before
    return str(raised.value)


def assert_same_arrays(one: Path | str, other: Path | str) -> None:
    """Equal in every array, to the bit."""
    first, second = arrays_of(one), arrays_of(other)
    assert first.keys() == second.keys()
    assert {"latents", "channel_mean"} <= {name.rpartition("/")[2] for name in first}
    for name, values in first.items():
        assert values.shape == second[name].shape, name
        if values.dtype.kind == "f":  # NaN too
            assert values.tobytes() == second[name].tobytes(), name
        else:
            assert (values == second[name]).all(), name


def assert_same_store(one: Path | str, other: Path | str) -> None:
    """Equal in every array, to the bit, and in every attribute but the time."""
    assert_same_arrays(one, other)
    attributes = [attributes_of(path) for path in (one, other)]
    for each in attributes:
        del each["created_at"], each["generation"], each["seal"]
    assert attributes[0] == attributes[1]


def change_metadata(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a zarr.json, and seal it again as it was: as if a writer had a bug."""
    metadata = json.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(metadata_file(metadata, sealed_names(metadata)))


SIDE_ARRAYS = ("keys", "content_hash", "original_size", "crop")


def open_plainly(store: Path) -> zarr.Group:
    with warnings.catch_warnings(action="ignore"):  # zarr does not know .tcae
        return zarr.open_group(store, mode="r")


def failures_of(store: Path) -> list[tuple[int, str, str, str]]:
    """Row, path, stage and error of what failed."""
    group = open_plainly(store)["failures"]
    return list(zip(*(group[name][:].tolist() for name in ("row", "path", "stage", "error")), strict=True))


def assert_rows_equal(store: Path, other: Path, rows: Sequence[int]) -> None:
    """The latents of some rows, and what part of which original they are of."""
    one, two = open_plainly(store), open_plainly(other)
    for name in ("latents", "original_size", "crop"):
        assert np.array_equal(one[name][:][rows], two[name][:][rows]), name


def committed_rows(store: Path, whole: Path) -> np.ndarray:
    """Rows that say they are ok; they are what they are in a store that was never interrupted."""
    group, right = open_plainly(store), open_plainly(whole)
    rows = np.flatnonzero(group["status"][:] == 1)
    for name in ("latents", *SIDE_ARRAYS):
        assert np.array_equal(group[name][:][rows], right[name][:][rows]), name
    return rows


def wait_for_commits(store: Path, count: int) -> None:
    """Wait until a process has committed so many shards."""
    patience_ends_at = time.monotonic() + 60
    while len(list(store.glob(".tcae/commits/*.json"))) < count:
        assert time.monotonic() < patience_ends_at
        time.sleep(0.002)
