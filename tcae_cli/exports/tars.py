"""Sana and DC-Gen text to image: tars of .npy and .json that are found through wids-meta.json.

A .npy is [c, h, w], scaled, float32. Of the .json, Sana takes `prompt`, DC-Gen `captions` and `clip_scores`, their
weights: one caption, weight 1. Both find the aspect bucket by `height` and `width`: those of the
square that was encoded.
"""

import json
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from tcae_cli.exports.array_file import npy_bytes
from tcae_cli.exports.pieces import pieces_of, rows_per_piece
from tcae_cli.exports.rows import ExportRows

_INDEX = "wids-meta.json"
_MOST_ROWS = 4096  # of a tar
_ROW_OVERHEAD = 4096  # bytes, of two members' headers and the .json


@dataclass(frozen=True)
class TarFiles:
    """00000.tar, ... and wids-meta.json."""

    rows: ExportRows

    @property
    def rows_per_piece(self) -> int:
        return rows_per_piece(4 * self.rows.num_values + _ROW_OVERHEAD, _MOST_ROWS)

    @property
    def notes(self) -> list[str]:
        notes = [self.rows.scale_note]
        if not self.rows.store.spec.has_captions:
            notes.append("the store has no captions: they are empty")
        return notes

    def names(self, piece: range) -> list[str]:
        return [f"{piece.start // self.rows_per_piece:05d}.tar"]

    @property
    def closing_names(self) -> tuple[str, ...]:
        return (_INDEX,)

    def files(self, piece: range) -> dict[str, bytes]:
        buffer = BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for row, latents in zip(piece, self.rows.latents(piece), strict=True):
                _add(tar, f"{row:08d}.npy", npy_bytes(latents))
                _add(tar, f"{row:08d}.json", json.dumps(self._about(row), ensure_ascii=False).encode())
        return dict.fromkeys(self.names(piece), buffer.getvalue())

    def closing(self, folder: Path) -> dict[str, bytes]:
        shards = []
        for piece in pieces_of(range(len(self.rows)), self.rows_per_piece):
            (name,) = self.names(piece)
            size = (folder / name).stat().st_size
            shards.append({"url": name, "nsamples": len(piece), "filesize": size})  # relative to the file that says so
        return {_INDEX: json.dumps({"wids_version": 1, "shardlist": shards}, indent=2).encode()}

    def _about(self, row: int) -> dict[str, Any]:
        caption, label = self.rows.captions[row], int(self.rows.labels[row])
        height, width = self.rows.original_sizes[row].tolist()
        return {
            "key": self.rows.keys[row],
            "prompt": caption,
            "captions": [caption],
            "clip_scores": [1.0],
            "label": label,  # -1 where there is none
            "class_name": self.rows.class_name(label),
            "height": self.rows.view.size,
            "width": self.rows.view.size,
            "original_height": height,
            "original_width": width,
        }


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # of 1970: the same bytes whenever it is written
    member.size = len(data)
    tar.addfile(member, BytesIO(data))
