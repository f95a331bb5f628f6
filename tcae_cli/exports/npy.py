"""One array, latents.npy, to be mapped into memory, and index.json with what belongs to its rows."""

import json
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tcae_cli.exports.array_file import npy_head
from tcae_cli.exports.format import ExportFormat
from tcae_cli.exports.growing import grow
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime.local_folder import LocalFolder

_ARRAY, _INDEX = "latents.npy", "index.json"


class Npy(ExportFormat):
    """Raw latents [n, c, h, w], in the store's dtype, float32 for int8."""

    name = "npy"
    trainer = "any that maps one array into memory"
    contents = "latents.npy, [n, c, h, w], raw, in the store's dtype (float32 for int8), and index.json"
    holds_buckets = True

    @property
    def row_bytes(self) -> int:
        return self.rows.num_values * self._dtype.itemsize

    def is_whole(self, folder: Path) -> bool:
        return all((folder / name).is_file() for name in (_ARRAY, _INDEX))

    def fill(self, folder: Path, progress: Progress) -> int:
        num_written = grow(folder / _ARRAY, folder / f"{_ARRAY}.partial", self, len(self.rows), progress)
        LocalFolder(folder).write({_INDEX: self._index()})
        return num_written

    @property
    def head(self) -> bytes:
        return npy_head((len(self.rows), *self.rows.shape), self._dtype)

    def encode(self, piece: range) -> bytes:
        return self.rows.raw(piece).astype(self._dtype, copy=False).tobytes()

    def finish(self, file: BinaryIO) -> None:
        """Write nothing: the file ends with its rows."""

    def _index(self) -> bytes:
        """Return index.json: key, class number (-1: none) and caption of each row in order, and the statistics."""
        rows, store = self.rows, self.rows.store
        about = {
            "keys": rows.keys,
            "labels": rows.labels.tolist(),
            "class_names": list(store.spec.source.class_names),
            "captions": rows.captions if store.spec.has_captions else None,
            "statistics": store.summaries[store.view],
        }
        return json.dumps(about, ensure_ascii=False).encode()

    @property
    def _dtype(self) -> np.dtype:
        spec = self.rows.store.spec
        return np.dtype(np.float32 if spec.quantisation else spec.dtype).newbyteorder("<")
