"""LatentStore: the reading side, for trainers and for `tcae decode`."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tcae_cli.errors import StoreError, UsageError
from tcae_cli.runtime.folder import LocalFolder, open_folder
from tcae_cli.store.layout import read_array, read_attributes, read_spec
from tcae_cli.store.quantise import as_float
from tcae_cli.store.shard_file import ShardReader
from tcae_cli.store.spec import MAIN_VIEW, OK, PENDING

_REQUESTS_TOGETHER = 32  # of rows of a remote store


class LatentStore:
    """A store of latents; rows are 0 ... len - 1, those of `ok_rows` hold latents.

    view: the array to read; `latents`, or another of `spec.views`. path: a folder, or s3:// or gs://.
    Safe to fork and to pickle. Raises StoreError if there is no store at the path, UsageError for an unknown view.
    """

    def __init__(self, path: Path | str, view: str = MAIN_VIEW) -> None:
        self.folder, self.view = open_folder(path), view
        self.spec = read_spec(self.folder)
        attributes = read_attributes(self.folder)
        self.complete: bool = attributes["complete"]
        self.summaries: dict[str, Any] = attributes["statistics"] or {}  # of the ok rows of each view, once complete
        if view not in self.spec.views:
            raise UsageError(f"{path} has no view {view}; it has {', '.join(self.spec.views)}")
        if not self.complete:
            warnings.warn(f"{path} is not complete: some rows hold no latents yet", stacklevel=2)
        self._reader = ShardReader(self.folder, self.spec, view)

    def __reduce__(self) -> tuple[type["LatentStore"], tuple[str, str]]:
        return type(self), (self.folder.uri, self.view)

    def __len__(self) -> int:
        return self.spec.num_rows

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """[c, h, w] of one image's latents."""
        return self.spec.sample_shape(self.view)

    def latents(self, rows: Sequence[int]) -> np.ndarray:
        """Raw latents [k, c, h, w] of rows in any order; NaN where a row is not ok.

        In the store's dtype, float32 for int8 (values times the scale of their channel).
        """
        dtype = np.float32 if self.spec.quantisation else np.dtype(self.spec.dtype)
        out = np.empty((len(rows), *self.sample_shape), dtype)
        for row in rows:
            if not 0 <= row < len(self):
                raise IndexError(f"row {row} of {len(self)}")
        if isinstance(self.folder, LocalFolder):
            for slot, row in enumerate(rows):
                self._read_into(int(row), out[slot])
        else:
            with ThreadPoolExecutor(_REQUESTS_TOGETHER) as requests:
                list(requests.map(self._read_into, map(int, rows), out))
        return out

    def normalise(self, latents: np.ndarray) -> np.ndarray:
        """Latents [..., c, h, w] with mean 0 and deviation 1 in each channel over the store, float32."""
        mean, std = self._normalisation
        return (latents.astype(np.float32) - mean) / std

    def denormalise(self, latents: np.ndarray) -> np.ndarray:
        """The inverse of normalise: raw latents, float32, as `decode` takes them."""
        mean, std = self._normalisation
        return latents.astype(np.float32) * std + mean

    def refuse_other_encoder(self, encoder_hash: str, name: str) -> None:
        """Raise StoreError unless this encoder made the latents; a model finetuned behind it still has the same."""
        made_with = self.spec.encoder
        if encoder_hash != made_with.hash:
            raise StoreError(
                f"{self.folder.uri} was made with encoder {made_with.hash[:12]} ({made_with.name}), {name} has "
                f"{encoder_hash[:12]}; pass --model with the first, or --force to decode all the same"
            )

    @cached_property
    def ok_rows(self) -> np.ndarray:
        """Rows that hold latents, ascending, [num_ok], int64."""
        return np.flatnonzero(self.status() == OK)

    def status(self) -> np.ndarray:
        """Of every row, [n], uint8: 0 pending, 1 ok, 2 failed."""
        status = self._column("status")[: len(self)]
        # While rows are being appended the array may not reach them all yet.
        return np.pad(status, (0, len(self) - len(status)), constant_values=PENDING)

    def labels(self) -> np.ndarray:
        """Class number of every row, [n], int64; -1 where there is none."""
        return self._column("labels")

    def keys(self, rows: Sequence[int]) -> list[str]:
        """Names of rows."""
        return self._strings("keys", rows)

    def captions(self, rows: Sequence[int]) -> list[str]:
        """Captions of rows, "" where there is none."""
        return self._strings("captions", rows) if self.spec.has_captions else [""] * len(rows)

    def content_hash(self, rows: Sequence[int] | None = None) -> np.ndarray:
        """BLAKE2b of the images' bytes as they were encoded, [k], uint64; of all rows when none are named."""
        hashes = self._column("content_hash")
        return hashes if rows is None else hashes[np.asarray(rows, np.int64)]

    def failures(self) -> list[dict[str, Any]]:
        """Row, path, stage and error of each failed row, once the store is complete."""
        if not self.complete:
            return []
        columns = {name: self._column(f"failures/{name}").tolist() for name in ("row", "path", "stage", "error")}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _read_into(self, row: int, out: np.ndarray) -> None:
        chunk = self._reader.chunk(row)
        if chunk is None:
            out.fill(np.nan)
            return
        values = self._reader.stored(row, chunk)
        out[:] = as_float(values, self.spec, self.view) if self.spec.quantisation else values

    @cached_property
    def _normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        if self.view not in self.summaries:
            raise StoreError(f"{self.folder.uri} has no statistics yet; finish it by repeating tcae encode-dataset")
        summary = self.summaries[self.view]
        mean, std = (np.array(summary[f"channel_{name}"], np.float32)[:, None, None] for name in ("mean", "std"))
        return mean, np.maximum(std, np.finfo(np.float32).tiny)

    @cached_property
    def _keys(self) -> np.ndarray:
        return self._column("keys")

    def _strings(self, name: str, rows: Sequence[int]) -> list[str]:
        values = self._keys if name == "keys" else self._column(name)
        return [str(value) for value in values[np.asarray(rows, np.int64)]]

    def _column(self, name: str) -> np.ndarray:
        return read_array(self.folder, name)
