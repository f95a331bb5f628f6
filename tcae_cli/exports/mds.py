"""MosaicML's MDS shards (mosaicml/diffusion, micro_diffusion): latents_SIZE as float16 bytes, scaled.

Their loaders know the shape; MDS does not. A shard, all numbers little-endian: uint32 count of samples, uint32 place of
each sample and of the end, the columns as JSON, the samples. A sample: uint32 bytes of each column without a fixed
size, then the values, both in the order of the names (mosaicml/streaming, version 2 of the format).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tcae_cli.exports.pieces import PieceFormat

_INT_BYTES = 8


class Mds(PieceFormat):
    """shard.00000.mds, ... and index.json."""

    name = "mds"
    trainer = "trainers on MosaicML's streaming datasets: mosaicml/diffusion and micro_diffusion"
    contents = "MDS shards of latents (float16 bytes, scaled), label, caption and key, and index.json"
    takes_scale = True
    holds_buckets = True
    value_bytes = 2  # float16
    closing_names = ("index.json",)

    @property
    def notes(self) -> list[str]:
        return [
            f"{self._column} holds float16 of shape {self.rows.shape}, which the loader has to know",
            self.rows.scale_note,
        ]

    def names(self, piece: range) -> list[str]:
        return [f"shard.{piece.start // self.rows_per_piece:05d}.mds"]

    def files(self, piece: range) -> dict[str, bytes]:
        columns = json.dumps(self._columns, sort_keys=True).encode()
        latents = self.rows.latents(piece, np.float16)
        samples = [self._sample(row, each) for row, each in zip(piece, latents, strict=True)]
        first = 4 * (1 + len(samples) + 1) + len(columns)
        places = first + np.cumsum([0, *map(len, samples)])
        return dict.fromkeys(self.names(piece), b"".join([_uint32(len(samples), *places), columns, *samples]))

    def closing_files(self, folder: Path) -> dict[str, bytes]:
        shards = []
        for piece in self.pieces:
            (name,) = self.names(piece)
            file = {"basename": name, "bytes": (folder / name).stat().st_size, "hashes": {}}
            shards.append(self._columns | {"samples": len(piece), "raw_data": file, "zip_data": None})
        return dict.fromkeys(self.closing_names, json.dumps({"version": 2, "shards": shards}).encode())

    def _sample(self, row: int, latents: np.ndarray) -> bytes:
        caption = self.rows.captions[row].encode()
        key = self.rows.keys[row].encode()
        label = int(self.rows.labels[row]).to_bytes(_INT_BYTES, "little", signed=True)
        data = latents.astype("<f2", copy=False).tobytes()
        return b"".join([_uint32(len(caption), len(key), len(data)), caption, key, label, data])

    @property
    def _columns(self) -> dict[str, Any]:
        """The description of a shard, with the columns sorted by name."""
        return {
            "version": 2,
            "format": "mds",
            "compression": None,
            "hashes": [],
            "size_limit": None,
            "column_names": ["caption", "key", "label", self._column],
            "column_encodings": ["str", "str", "int", "bytes"],
            "column_sizes": [None, None, _INT_BYTES, None],
        }

    @property
    def _column(self) -> str:
        return f"latents_{self.rows.view.size}"


def _uint32(*numbers: int) -> bytes:
    return np.array(numbers, "<u4").tobytes()
