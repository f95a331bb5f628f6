"""Writes shards of a store, one at a time, in the order that keeps a reader right at any instant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import zarr

from tcae_cli.runtime.files import disk_errors, sync
from tcae_cli.store.commit import (
    PARTS_FOLDER,
    FailedRow,
    FileRecord,
    ShardRecord,
    read_record,
    record_path,
    write_record,
)
from tcae_cli.store.layout import FAILED, OK, PENDING, SIDE_ARRAYS, read_spec
from tcae_cli.store.shard_file import ShardFileWriter, chunk_codec, crc32c_of, shard_name
from tcae_cli.store.statistics import LatentMoments


@dataclass(frozen=True)
class EncodedRows:
    """Some consecutive rows of a shard, k of them; what failed holds anything."""

    rows: Sequence[int]
    latents: np.ndarray  # [k, c, h, w], the store's dtype
    original_sizes: np.ndarray  # [k, 2], int32
    crops: np.ndarray  # [k, 4], int32
    content_hashes: np.ndarray  # [k], uint64
    failures: Mapping[int, tuple[str, str]]  # row -> stage, error


class StoreWriter:
    """The writing side of a store that exists."""

    def __init__(self, path: Path) -> None:
        self.path, self.spec = path, read_spec(path)
        self.codec = chunk_codec(self.spec.codec)
        # A chunk of nothing but the fill value is a file too: what is absent is not written yet.
        arrays = {name: zarr.open_array(path / name, mode="r+") for name in self.chunk_paths(0)}
        self.arrays = {name: array.with_config({"write_empty_chunks": True}) for name, array in arrays.items()}

    def committed(self, shards: Sequence[int]) -> set[int]:
        """Those of the shards that need no more work."""
        return {shard for shard in shards if read_record(self.path, shard)}

    def begin(
        self, shard: int, *, keys: Sequence[str], labels: np.ndarray, captions: Sequence[str] | None
    ) -> "ShardInProgress":
        """Start a shard that is not committed; what a kill left of it goes first, its status before all else."""
        with disk_errors(self.path):
            for path in [record_path(self.path, shard), *reversed(self.chunk_paths(shard).values())]:
                if path.exists():
                    path.unlink()
                    sync(path.parent)
        side = {"keys": np.array(keys, object), "labels": labels}
        if captions is not None:
            side["captions"] = np.array(captions, object)
        return ShardInProgress(self, shard, side)

    def chunk_paths(self, shard: int) -> dict[str, Path]:
        """The file of a shard in each array, in the order of writing."""
        names = ["latents", *SIDE_ARRAYS, *(["captions"] if self.spec.has_captions else []), "status"]
        return {
            name: self.path / name / (shard_name(shard) if name == "latents" else self._side_name(name, shard))
            for name in names
        }

    def _side_name(self, name: str, shard: int) -> str:
        return f"c.{shard}.0" if name in ("original_size", "crop") else f"c.{shard}"


class ShardInProgress:
    """A shard that takes rows, in order, and is then committed."""

    def __init__(self, writer: StoreWriter, shard: int, side: dict[str, np.ndarray]) -> None:
        self._writer, self._shard, self._side = writer, shard, side
        self._rows = writer.spec.rows_of_shard(shard)
        self._paths = writer.chunk_paths(shard)
        part = writer.path / PARTS_FOLDER / f"{shard}.{uuid4().hex[:12]}"
        self._file = ShardFileWriter(part, self._paths["latents"], writer.spec.rows_per_shard)
        self._added: list[EncodedRows] = []  # without their latents
        self._moments: LatentMoments | None = None

    def add(self, encoded: EncodedRows) -> None:
        """Append the next rows."""
        latents = np.ascontiguousarray(encoded.latents)
        ok = [slot for slot, row in enumerate(encoded.rows) if row not in encoded.failures]
        for slot, row in enumerate(encoded.rows):
            failed = row in encoded.failures
            self._file.append(None if failed else self._writer.codec.encode(latents[slot]))
        if ok:
            moments = LatentMoments.of(latents[ok])
            self._moments = self._moments.merge(moments) if self._moments else moments
        self._added.append(replace(encoded, latents=encoded.latents[:0]))  # the file has them

    def commit(self) -> ShardRecord:
        """Make the shard part of the store."""
        size, crc32c = self._file.finish()
        files = {"latents": FileRecord(size=size, crc32c=crc32c)}
        failures = {row: failure for part in self._added for row, failure in part.failures.items()}
        status = np.array([FAILED if row in failures else OK for row in self._rows], np.uint8)
        assert PENDING not in status and sum(len(part.rows) for part in self._added) == len(self._rows)
        self._side |= {
            "content_hash": np.concatenate([part.content_hashes for part in self._added]),
            "original_size": np.concatenate([part.original_sizes for part in self._added]),
            "crop": np.concatenate([part.crops for part in self._added]),
            "status": status,
        }
        for name in list(self._paths)[1:]:
            files[name] = self._write_side(name)
        keys = dict(zip(self._rows, self._side["keys"], strict=True))
        record = ShardRecord(
            shard=self._shard,
            first_row=self._rows.start,
            num_rows=len(self._rows),
            num_ok=len(self._rows) - len(failures),
            num_failed=len(failures),
            files={str(self._paths[name].relative_to(self._writer.path)): file for name, file in files.items()},
            failures=[
                FailedRow(row=row, path=keys[row], stage=stage, error=error)
                for row, (stage, error) in sorted(failures.items())
            ],
            statistics=self._moments.as_json() if self._moments else None,
        )
        write_record(self._writer.path, record)
        return record

    def abandon(self) -> None:
        """Drop an unfinished shard; nothing of it was visible."""
        self._file.abandon()

    def _write_side(self, name: str) -> FileRecord:
        path = self._paths[name]
        with disk_errors(path):
            self._writer.arrays[name][self._rows.start : self._rows.stop] = self._side[name]
            sync(path)
            sync(path.parent)
            return FileRecord(size=path.stat().st_size, crc32c=crc32c_of(path))
