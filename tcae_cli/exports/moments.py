"""The files that EDM2's dataset tool writes, of moments, and dataset.json; REPA's are the same.

A file is [2c, h, w], float32: the mean, raw, then the deviation, which is zero here, so that the latents themselves are
what the trainers' loops sample.
"""

import json
from pathlib import Path
from typing import ClassVar

import numpy as np

from tcae_cli.exports.array_file import npy_bytes
from tcae_cli.exports.pieces import PieceFormat
from tcae_cli.exports.rows import ExportRows

INDEX = "dataset.json"


class MomentFiles(PieceFormat):
    """00000/img-mean-std-00000000.npy, ... and dataset.json."""

    needs_classes = True
    value_bytes = 2 * 4  # float32, twice
    most_rows = 256  # open files at a time
    subfolder: ClassVar[str] = ""  # of the target

    def names(self, piece: range) -> list[str]:
        return [self.subfolder + moments_name(row) for row in piece]

    def files(self, piece: range) -> dict[str, bytes]:
        moments = moments_of(self.rows, piece)
        return {name: npy_bytes(each) for name, each in zip(self.names(piece), moments, strict=True)}

    def closing_files(self, folder: Path) -> dict[str, bytes]:
        return {self.subfolder + INDEX: index_of(self.rows)}


def moments_name(row: int) -> str:
    """Return the file name of a row: names sort as rows do."""
    number = f"{row:08d}"
    return f"{number[:5]}/img-mean-std-{number}.npy"


def moments_of(rows: ExportRows, piece: range) -> np.ndarray:
    """Return mean, then deviation, [k, 2c, h, w], float32."""
    mean = rows.latents(piece)
    return np.concatenate([mean, np.zeros_like(mean)], axis=1)


def index_of(rows: ExportRows) -> bytes:
    """Return dataset.json: the class number of each file and, for people, its key."""
    names = [moments_name(row) for row in range(len(rows))]
    labels = list(zip(names, rows.labels.tolist(), strict=True))
    keys = list(zip(names, rows.keys, strict=True))
    return json.dumps({"labels": labels, "keys": keys}, ensure_ascii=False).encode()
