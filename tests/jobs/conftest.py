"""Helpers of the jobs' tests: stores in full, and real processes."""

import os
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import zarr

from tcae_cli.jobs.encode import encode_dataset
from tcae_cli.report import EncodeReport, EncodeRequest, Silent, Tolerance


@pytest.fixture(scope="session")
def encode(small_checkpoint):
    """Encodes with the small model, in this process."""

    def run(source: Path | str, store: Path | str, progress=None, max_failures: str = "1%", **options) -> EncodeReport:
        settings = {"model": str(small_checkpoint), "device": "cpu", "num_workers": 0} | options
        tolerance = Tolerance.parse(max_failures)
        request = EncodeRequest(source=str(source), store=str(store), max_failures=tolerance, **settings)
        return encode_dataset(request, progress or Silent())

    return run


@pytest.fixture(scope="session")
def start_tcae(small_checkpoint):
    """Starts a real process: `tcae encode-dataset` on the CPU with the small model."""

    def start(
        source: Path | str, store: Path | str, *options: str, launcher=(), environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        command = [sys.executable, *launcher, "-m", "tcae_cli", "encode-dataset", str(source), str(store)]
        command += ["--model", str(small_checkpoint), "--device", "cpu", "--workers", "1", *options]
        variables = os.environ | (environment or {})
        return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def arrays_of(store: Path | str) -> dict[str, np.ndarray]:
    """Every array of a store, here or in a bucket, by its path inside."""
    with warnings.catch_warnings(action="ignore"):  # zarr does not know .tcae
        members = zarr.open_group(store, mode="r").members(max_depth=None)
        return {name: array[:] for name, array in members if isinstance(array, zarr.Array)}


def assert_same_arrays(one: Path | str, other: Path | str) -> None:
    """Equal in every array, to the bit."""
    first, second = arrays_of(one), arrays_of(other)
    assert first.keys() == second.keys()
    assert "latents" in first and "statistics/latents/channel_mean" in first
    for name, values in first.items():
        assert values.shape == second[name].shape, name
        if values.dtype.kind == "f":  # NaN too
            assert values.tobytes() == second[name].tobytes(), name
        else:
            assert (values == second[name]).all(), name


def assert_same_store(one: Path | str, other: Path | str) -> None:
    """Equal in every array, to the bit, and in every attribute but the time."""
    assert_same_arrays(one, other)
    attributes = [dict(zarr.open_group(path, mode="r").attrs) for path in (one, other)]
    for each in attributes:
        del each["created_at"], each["generation"]
    assert attributes[0] == attributes[1]
