"""What is committed: one record a shard, created last, and the finish that makes a store complete.

Order of a shard: latents, side arrays, status, record (DESIGN section 5). Whatever the moment of a kill, a row whose
status says ok has its latents, and a shard without a record is written again.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import zarr
from pydantic import BaseModel, ConfigDict, ValidationError

from tcae_cli.errors import StoreError
from tcae_cli.runtime.files import disk_errors, make_folder, sync, write_atomic
from tcae_cli.store.layout import PRIVATE_FOLDER, read_attributes, read_spec, write_attributes
from tcae_cli.store.statistics import LatentMoments, Moments

PARTS_FOLDER = f"{PRIVATE_FOLDER}/part"  # files that have no name yet
_RECORDS_FOLDER = f"{PRIVATE_FOLDER}/commits"
_FINISHED = f"{PRIVATE_FOLDER}/finished"  # created by the process that completes the store
_CHUNK_ROWS = 65_536  # of the failures table


class FileRecord(BaseModel):
    """What a file of the store was when it was committed."""

    model_config = ConfigDict(frozen=True)

    size: int  # bytes
    crc32c: int


class FailedRow(BaseModel):
    """A row without latents: its key, and where and why it failed."""

    model_config = ConfigDict(frozen=True)

    row: int
    path: str
    stage: str  # read, decode or encode
    error: str


class ShardRecord(BaseModel):
    """The commit of one shard."""

    model_config = ConfigDict(frozen=True)

    shard: int
    first_row: int
    num_rows: int
    num_ok: int
    num_failed: int
    files: dict[str, FileRecord]  # by path inside the store
    failures: list[FailedRow]
    statistics: dict[str, Any] | None  # LatentMoments of its ok rows; None if there are none


def record_path(store: Path, shard: int) -> Path:
    """Where the record of a shard is, once it is committed."""
    return store / _RECORDS_FOLDER / f"{shard:06d}.json"


def write_record(store: Path, record: ShardRecord) -> None:
    """Commit a shard."""
    path = record_path(store, record.shard)
    make_folder(path.parent)
    write_atomic(path, record.model_dump_json().encode())


def read_record(store: Path, shard: int) -> ShardRecord | None:
    """The record of a shard; None if it is not committed, or its files are no longer of the size they had."""
    path = record_path(store, shard)
    try:
        record = ShardRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise StoreError(f"{path} is damaged; remove it and repeat: its shard is then encoded again") from error
    return record if all(_size(store / name) == file.size for name, file in record.files.items()) else None


def finalise(store: Path) -> bool:
    """Write statistics, the failures table and, last, `complete`; True for the one process that completes the store.

    False if some shard is not committed yet, or another process is first. Whoever calls it writes the same.
    """
    spec = read_spec(store)
    moments: LatentMoments | None = None
    failures: list[FailedRow] = []
    for shard in range(spec.num_shards):
        record = read_record(store, shard)
        if record is None:
            return False
        failures += record.failures
        if record.statistics:
            of_shard = LatentMoments.from_json(record.statistics)
            moments = moments.merge(of_shard) if moments else of_shard
    with disk_errors(store):
        _put_in_place(store / "statistics", lambda path: _write_statistics(path, moments))
        _put_in_place(store / "failures", lambda path: _write_failures(path, failures))
        try:
            (store / _FINISHED).touch(exist_ok=False)
        except FileExistsError:
            return False
        for leftover in _leftovers(store):
            leftover.unlink(missing_ok=True)
    result = {
        "rows": {"ok": moments.num_rows if moments else 0, "failed": len(failures)},
        "statistics": _summary(moments) if moments else None,
        "complete": True,
    }
    write_attributes(store, {**read_attributes(store), **result})
    return True


def _summary(moments: LatentMoments) -> dict[str, Any]:
    overall = _overall(moments)
    return {
        "num_rows": moments.num_rows,
        "mean": float(overall.mean),
        "std": float(overall.std),
        "channel_mean": moments.channel.mean.tolist(),
        "channel_std": moments.channel.std.tolist(),
    }


def reopen_unless_whole(store: Path) -> None:
    """Take back what finishing wrote, if it was cut short or the store has lost files since: the command mends it.

    For one process, before others begin.
    """
    attributes, spec = read_attributes(store), read_spec(store)
    if attributes["complete"]:
        if all(read_record(store, shard) for shard in range(spec.num_shards)):
            return
        write_attributes(store, {**attributes, "complete": False})
    with disk_errors(store):
        for name in ("statistics", "failures"):
            shutil.rmtree(store / name, ignore_errors=True)
        (store / _FINISHED).unlink(missing_ok=True)


def _overall(moments: LatentMoments) -> Moments:
    """Of all values, from those of the channels, which all have the same count."""
    channel = moments.channel
    mean = channel.mean.mean()
    m2 = channel.m2.sum() + channel.count * np.square(channel.mean - mean).sum()
    return Moments(channel.count * channel.mean.size, mean, m2, channel.minimum.min(), channel.maximum.max())


def _write_statistics(path: Path, moments: LatentMoments | None) -> None:
    """A group of float64 arrays: channel_mean [c], position_mean [h, w] and so on; empty if no row is ok."""
    parts = {"channel": moments.channel, "position": moments.position} if moments else {}
    for name, part in parts.items():
        for suffix, values in (("mean", part.mean), ("std", part.std), ("min", part.minimum), ("max", part.maximum)):
            zarr.create_array(path / f"{name}_{suffix}", data=values.astype(np.float64), overwrite=True)
    write_attributes(path, {"num_rows": moments.num_rows if moments else 0})


def _write_failures(path: Path, failures: list[FailedRow]) -> None:
    """A table, one array a column."""
    chunks = (max(1, min(len(failures), _CHUNK_ROWS)),)
    columns: dict[str, tuple[str, list[Any]]] = {
        "row": ("int64", [failure.row for failure in failures]),
        "path": ("string", [failure.path for failure in failures]),
        "stage": ("string", [failure.stage for failure in failures]),
        "error": ("string", [failure.error for failure in failures]),
    }
    for name, (dtype, values) in columns.items():
        array = zarr.create_array(path / name, shape=(len(values),), dtype=dtype, chunks=chunks, overwrite=True)
        if values:
            array[:] = np.array(values, np.int64 if dtype == "int64" else object)
    write_attributes(path, {})


def _leftovers(store: Path) -> Iterator[Path]:
    """Temporary files that a kill left behind; every shard is committed, so nobody is writing one."""
    yield from store.glob("*/*.partial")  # zarr-python's
    yield from store.glob("*/.*.partial")
    yield from store.glob(f"{_RECORDS_FOLDER}/.*.partial")
    yield from (path for path in store.glob(f"{PARTS_FOLDER}/*") if path.is_file())


def _put_in_place(final: Path, write: Callable[[Path], None]) -> None:
    """Write a group under another name and move it here, whole; another process may have been first with the same."""
    scratch = final.parent / PARTS_FOLDER / f"{final.name}.{uuid4().hex[:12]}"
    scratch.mkdir(parents=True)
    write(scratch)
    for path in [*scratch.rglob("*"), scratch]:
        sync(path)
    try:
        scratch.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        shutil.rmtree(scratch)
    sync(final.parent)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
