"""What a plain zarr reader finds in a store."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zarr

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
