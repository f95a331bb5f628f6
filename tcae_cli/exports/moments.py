"""The files that EDM2's dataset tool writes, of moments, and dataset.json; REPA's are the same.

A file is [2c, h, w], float32, raw: the mean, then the deviation of the posterior. Where a store has none it is zero, so
that the latents themselves are what the trainers' loops sample.
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
    of_posterior = "mean and deviation"

    @property
    def posterior_note(self) -> str:
        if self.rows.has_posterior:
            return f"the deviations are those of the posterior, from which {self.trainer} draws in every epoch"
        return (
            f"the deviations are zero, since the store holds none, so {self.trainer} draws the same latents in every "
            "epoch; encode with --posterior where the autoencoder has one"
        )

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
    return np.concatenate([rows.latents(piece), rows.deviations(piece)], axis=1)


def index_of(rows: ExportRows) -> bytes:
    """Return dataset.json: the class number of each file and, for people, its key."""
    names = [moments_name(row) for row in range(len(rows))]
    labels = list(zip(names, rows.labels.tolist(), strict=True))
    keys = list(zip(names, rows.keys, strict=True))
    return json.dumps({"labels": labels, "keys": keys}, ensure_ascii=False).encode()
