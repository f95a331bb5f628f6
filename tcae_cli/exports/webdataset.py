"""Sana and DC-Gen text to image: tars of .npy and .json that are found through wids-meta.json.

A .npy is [c, h, w], scaled, float32. Of the .json, Sana reads `prompt`; DC-Gen reads `captions` and their weights,
`clip_scores`: one caption of weight 1. Both find the aspect bucket by `height` and `width`, which are those of the
crop that was encoded.
"""

import json
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

from tcae_cli.exports.array_file import npy_bytes
from tcae_cli.exports.pieces import PieceFormat

_ROW_OVERHEAD = 4096  # bytes, of two members' headers and the .json


class WebDataset(PieceFormat):
    """00000.tar, ... and wids-meta.json."""

    name = "webdataset"
    trainer = "Sana, and DC-Gen's text-to-image trainers"
    contents = "tars of a .npy ([c, h, w], float32, scaled) and a .json for each row, and wids-meta.json"
    takes_scale = True
    holds_buckets = True
    closing_names = ("wids-meta.json",)

    @property
    def row_bytes(self) -> int:
        return super().row_bytes + _ROW_OVERHEAD

    @property
    def notes(self) -> list[str]:
        notes = [self.rows.scale_note]
        if not self.rows.store.spec.has_captions:
            notes.append("the store has no captions, so they are empty")
        return notes

    def names(self, piece: range) -> list[str]:
        return [f"{piece.start // self.rows_per_piece:05d}.tar"]

    def files(self, piece: range) -> dict[str, bytes]:
        buffer = BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for row, latents in zip(piece, self.rows.latents(piece), strict=True):
                _add(tar, f"{row:08d}.npy", npy_bytes(latents))
                _add(tar, f"{row:08d}.json", json.dumps(self._about(row), ensure_ascii=False).encode())
        return dict.fromkeys(self.names(piece), buffer.getvalue())

    def closing_files(self, folder: Path) -> dict[str, bytes]:
        shards = []
        for piece in self.pieces:
            (name,) = self.names(piece)
            size = (folder / name).stat().st_size
            shards.append({"url": name, "nsamples": len(piece), "filesize": size})  # relative to this index
        index = json.dumps({"wids_version": 1, "shardlist": shards}, indent=2).encode()
        return dict.fromkeys(self.closing_names, index)

    def _about(self, row: int) -> dict[str, Any]:
        caption = self.rows.captions[row]
        label = int(self.rows.labels[row])
        height, width = self.rows.original_sizes[row].tolist()
        crop_height, crop_width = self.rows.crop_shape
        return {
            "key": self.rows.keys[row],
            "prompt": caption,
            "captions": [caption],
            "clip_scores": [1.0],
            "label": label,  # -1 where there is none
            "class_name": self.rows.class_name(label),
            "height": crop_height,
            "width": crop_width,
            "original_height": height,
            "original_width": width,
        }


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # of the year 1970, so that it is the same bytes whenever it is written
    member.size = len(data)
    tar.addfile(member, BytesIO(data))
