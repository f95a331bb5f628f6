"""EDM2 (arXiv:2312.02696) and REPA (arXiv:2410.06940): .npy files of moments, and dataset.json.

A file is [2c, h, w], float32: the mean, raw, then the deviation, zero here, so that what their loops sample is the
latents. Both are named as EDM2's dataset tool names them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tcae_cli.exports.array_file import npy_bytes
from tcae_cli.exports.pieces import rows_per_piece
from tcae_cli.exports.rows import ExportRows

INDEX = "dataset.json"
_MOST_ROWS = 256  # open files at a time

_EDM2_NOTE = (
    "EDM2 whitens latents with constants of Stable Diffusion's VAE: give its encoder raw_mean and raw_std from "
    "statistics.channel_mean and channel_std of tcae_export.json"
)
_REPA_SCALE_NOTE = (
    "REPA scales latents with constants of Stable Diffusion's VAE, of 4 channels: in its train.py and generate.py set "
    "latents_scale to 1 / channel_std and latents_bias to -channel_mean / channel_std, of statistics in "
    "tcae_export.json, build the model with in_channels {channels} on a grid of {height} x {width}, and decode "
    "(samples - latents_bias) / latents_scale with this store's encoder's model in place of its vae"
)
_REPA_IMAGES_NOTE = (
    "REPA pairs vae-sd with a folder images beside it by sorted name: put the {size} px crop of the image that "
    "vae-sd/dataset.json names under keys as 00000/img-mean-std-00000000.npy at images/00000/img00000000.png, and so on"
)


@dataclass(frozen=True)
class MomentFiles:
    """00000/img-mean-std-00000000.npy, ...; REPA's are below vae-sd."""

    rows: ExportRows
    trainer: Literal["edm2", "repa"]

    def __post_init__(self) -> None:
        self.rows.require_classes(self.trainer)

    @property
    def rows_per_piece(self) -> int:
        return rows_per_piece(2 * 4 * self.rows.num_values, _MOST_ROWS)

    @property
    def notes(self) -> list[str]:
        if self.trainer == "edm2":
            return [_EDM2_NOTE]
        channels, height, width = self.rows.shape
        return [
            _REPA_IMAGES_NOTE.format(size=self.rows.view.size),
            _REPA_SCALE_NOTE.format(channels=channels, height=height, width=width),
        ]

    def names(self, piece: range) -> list[str]:
        return [self._folder + file_name(row) for row in piece]

    @property
    def closing_names(self) -> tuple[str, ...]:
        return (self._folder + INDEX,)

    def files(self, piece: range) -> dict[str, bytes]:
        moments = moments_of(self.rows, piece)
        return {name: npy_bytes(each) for name, each in zip(self.names(piece), moments, strict=True)}

    def closing(self, folder: Path) -> dict[str, bytes]:
        return {self._folder + INDEX: index_of(self.rows)}

    @property
    def _folder(self) -> str:
        return "vae-sd/" if self.trainer == "repa" else ""


def file_name(row: int) -> str:
    """The file of a row: names sort as rows do."""
    number = f"{row:08d}"
    return f"{number[:5]}/img-mean-std-{number}.npy"


def moments_of(rows: ExportRows, piece: range) -> np.ndarray:
    """Mean, then deviation, [k, 2c, h, w], float32."""
    mean = rows.latents(piece)
    return np.concatenate([mean, np.zeros_like(mean)], axis=1)


def index_of(rows: ExportRows) -> bytes:
    """dataset.json: the class number of each file, and for people its key."""
    names = [file_name(row) for row in range(len(rows))]
    labels, keys = (list(zip(names, column, strict=True)) for column in (rows.labels.tolist(), rows.keys))
    return json.dumps({"labels": labels, "keys": keys}, ensure_ascii=False).encode()
