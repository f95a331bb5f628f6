"""Helpers of the jobs' tests: stores in full, and real processes."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import s3fs
import zarr

from tcae_cli.errors import StoreError
from tcae_cli.jobs.encode import encode_dataset
from tcae_cli.report import EncodeReport, EncodeRequest, Silent, Tolerance
from tcae_cli.runtime import distributed


@pytest.fixture(scope="session")
def encode(small_checkpoint):
    """Encodes with the small model, in this process."""

    def run(source: Path | str, store: Path | str, progress=None, max_failures: str = "1%", **options) -> EncodeReport:
        settings = {"model": str(small_checkpoint), "device": "cpu", "num_workers": 0} | options
        tolerance = Tolerance.parse(max_failures)
        request = EncodeRequest(source=str(source), store=str(store), max_failures=tolerance, **settings)
        return encode_dataset(request, progress or Silent())

    return run


@pytest.fixture
def encode_as_ranks(encode, monkeypatch):
    """Encodes as the ranks of one launch would, one after the other in this process; gives their reports."""

    def run(num_ranks: int, *arguments, **options) -> list[EncodeReport]:
        reports = []
        with monkeypatch.context() as environment:
            for rank in range(num_ranks):
                for name, value in (("WORLD_SIZE", num_ranks), ("RANK", rank), ("LOCAL_RANK", rank)):
                    environment.setenv(name, str(value))
                distributed.launch_id.cache_clear()
                reports.append(encode(*arguments, **options))
        distributed.launch_id.cache_clear()
        return reports

    return run


@pytest.fixture(scope="session")
def start_tcae(small_checkpoint):
    """Starts a real process: `tcae encode-dataset` on the CPU with the small model."""
    started: list[subprocess.Popen[str]] = []

    def start(
        source: Path | str, store: Path | str, *options: str, launcher=(), environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        command = [sys.executable, *launcher, "-m", "tcae_cli", "encode-dataset", str(source), str(store)]
        command += ["--model", str(small_checkpoint), "--device", "cpu", "--workers", "1", *options]
        variables = os.environ | (environment or {})
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, env=variables, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None or not process.stdout.closed:  # of a test that failed
            process.kill()
            process.communicate()


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
    attributes = [attributes_of(path) for path in (one, other)]
    for each in attributes:
        del each["created_at"], each["generation"]
    assert attributes[0] == attributes[1]
