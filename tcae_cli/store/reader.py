"""LatentStore: the reading side, for trainers and for `tcae decode`."""

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from tcae_cli.errors import StoreError
from tcae_cli.store.layout import OK, read_attributes, read_spec
from tcae_cli.store.shard_file import ShardReader


class LatentStore:
    """A store of latents; rows are 0 ... len - 1, those of `ok_rows` hold latents.

    Safe to fork and to pickle. Raises StoreError if there is no store at the path.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.spec = read_spec(self.path)
        attributes = read_attributes(self.path)
        self.complete: bool = attributes["complete"]
        self.summary: dict[str, Any] | None = attributes["statistics"]  # of all ok rows, once complete
        if not self.complete:
            warnings.warn(f"{path} is not complete: some rows hold no latents yet", stacklevel=2)
        self._reader = ShardReader(
            self.path / "latents",
            rows_per_shard=self.spec.rows_per_shard,
            sample_shape=self.spec.sample_shape,
            dtype=self.spec.dtype,
            codec=self.spec.codec,
        )

    def __reduce__(self) -> tuple[type["LatentStore"], tuple[Path]]:
        return type(self), (self.path,)

    def __len__(self) -> int:
        return self.spec.num_rows

    def latents(self, rows: Sequence[int]) -> np.ndarray:
        """Raw latents [k, c, h, w] of rows in any order, the store's dtype; NaN where a row is not ok."""
        out = np.empty((len(rows), *self.spec.sample_shape), self.spec.dtype)
        for slot, row in enumerate(rows):
            if not 0 <= row < len(self):
                raise IndexError(f"row {row} of {len(self)}")
            self._reader.read_into(int(row), out[slot])
        return out

    def normalise(self, latents: np.ndarray) -> np.ndarray:
        """Latents [..., c, h, w] with mean 0 and deviation 1 in each channel over the store, float32."""
        mean, std = self._normalisation
        return (latents.astype(np.float32) - mean) / std

    def denormalise(self, latents: np.ndarray) -> np.ndarray:
        """The inverse of normalise: raw latents, float32, as `decode` takes them."""
        mean, std = self._normalisation
        return latents.astype(np.float32) * std + mean

    @cached_property
    def ok_rows(self) -> np.ndarray:
        """Rows that hold latents, ascending, [num_ok], int64."""
        return np.flatnonzero(self.status() == OK)

    def status(self) -> np.ndarray:
        """Of every row, [n], uint8: 0 pending, 1 ok, 2 failed."""
        return self._column("status")

    def labels(self) -> np.ndarray:
        """Class number of every row, [n], int64; -1 where there is none."""
        return self._column("labels")

    def keys(self, rows: Sequence[int]) -> list[str]:
        """Names of rows."""
        return self._strings("keys", rows)

    def captions(self, rows: Sequence[int]) -> list[str]:
        """Captions of rows, "" where there is none."""
        return self._strings("captions", rows) if self.spec.has_captions else [""] * len(rows)

    def content_hash(self, rows: Sequence[int]) -> np.ndarray:
        """BLAKE2b of the images' bytes as they were encoded, [k], uint64."""
        return self._column("content_hash")[np.asarray(rows, np.int64)]

    def failures(self) -> list[dict[str, Any]]:
        """Row, path, stage and error of each failed row, once the store is complete."""
        if not self.complete:
            return []
        columns = {name: self._column(f"failures/{name}").tolist() for name in ("row", "path", "stage", "error")}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    @cached_property
    def _normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        if self.summary is None:
            raise StoreError(f"{self.path} has no statistics yet; finish it by repeating tcae encode-dataset")
        mean, std = (np.array(self.summary[f"channel_{name}"], np.float32)[:, None, None] for name in ("mean", "std"))
        return mean, np.maximum(std, np.finfo(np.float32).tiny)

    @cached_property
    def _keys(self) -> np.ndarray:
        return self._column("keys")

    def _strings(self, name: str, rows: Sequence[int]) -> list[str]:
        values = self._keys if name == "keys" else self._column(name)
        return [str(value) for value in values[np.asarray(rows, np.int64)]]

    def _column(self, name: str) -> np.ndarray:
        return np.asarray(zarr.open_array(self.path / name, mode="r")[:])
