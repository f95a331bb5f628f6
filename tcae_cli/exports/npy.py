"""One array, latents.npy, to be mapped into memory, and index.json with what belongs to its rows."""

import json
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from tcae_cli.exports.array_file import npy_head
from tcae_cli.exports.pieces import rows_per_piece
from tcae_cli.exports.rows import ExportRows

ARRAY, INDEX = "latents.npy", "index.json"
_MOST_ROWS = 4096


@dataclass(frozen=True)
class NpyArray:
    """Raw latents [n, c, h, w], in the store's dtype, float32 for int8."""

    rows: ExportRows

    @property
    def head(self) -> bytes:
        return npy_head((len(self.rows), *self.rows.shape), self._dtype)

    @property
    def row_bytes(self) -> int:
        return self.rows.num_values * self._dtype.itemsize

    @property
    def rows_per_piece(self) -> int:
        return rows_per_piece(self.row_bytes, _MOST_ROWS)

    @property
    def notes(self) -> list[str]:
        return []

    def names(self, piece: range) -> list[str]:
        return [ARRAY]

    @property
    def closing_names(self) -> tuple[str, ...]:
        return (INDEX,)

    def encode(self, piece: range) -> bytes:
        return self.rows.raw(piece).astype(self._dtype, copy=False).tobytes()

    def finish(self, file: BinaryIO) -> None:
        """Nothing follows the rows."""

    def index(self) -> bytes:
        """index.json: key, class number (-1: none) and caption of each row in order; and what normalises latents."""
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
