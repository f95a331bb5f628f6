"""LightningDiT (arXiv:2501.01423): safetensors of latents, mirrored latents and labels, and their statistics.

Its loader draws `latents` or `latents_flip` and takes (x - mean) / std: values are raw.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from tcae_cli.errors import UsageError
from tcae_cli.exports.pieces import rows_per_piece
from tcae_cli.exports.rows import ExportRows
from tcae_cli.store.reader import LatentStore

_MOST_ROWS = 4096  # of a file
_LEAST_STD = 1e-6  # of a channel that never changes: the loader divides by it


@dataclass(frozen=True)
class SafetensorsFiles:
    """latents_00000.safetensors, ... and latents_stats.pt."""

    rows: ExportRows
    flipped: ExportRows

    @classmethod
    def of(cls, rows: ExportRows) -> "SafetensorsFiles":
        """Raises UsageError if the store has no mirrored latents, or rows without a class."""
        rows.require_classes("LightningDiT")
        store, flip = rows.store, f"{rows.store.view}_flip"
        if flip not in store.spec.views:
            raise UsageError(
                f"{store.folder.uri} has no mirrored latents ({flip}), and LightningDiT's loader needs them; "
                "encode another store with encode-dataset --flip"
            )
        return cls(rows, ExportRows(LatentStore(store.folder.uri, flip)))

    @property
    def rows_per_piece(self) -> int:
        return rows_per_piece(2 * 4 * self.rows.num_values, _MOST_ROWS)

    @property
    def notes(self) -> list[str]:
        return []

    def last_name(self, piece: range) -> str:
        return f"latents_{piece.start // self.rows_per_piece:05d}.safetensors"  # rows in the order of sorted names

    def files(self, piece: range) -> dict[str, bytes]:
        tensors = {
            "latents": self.rows.latents(piece),
            "latents_flip": self.flipped.latents(piece),
            "labels": self.rows.labels[piece.start : piece.stop],
        }
        return {self.last_name(piece): save(tensors)}

    def closing(self, folder: Path) -> dict[str, bytes]:
        summary = self.rows.store.summaries[self.rows.store.view]
        mean, std = (np.array(summary[f"channel_{name}"], np.float32) for name in ("mean", "std"))
        statistics = {"mean": mean, "std": np.maximum(std, _LEAST_STD)}
        buffer = BytesIO()
        torch.save({name: torch.from_numpy(values)[None, :, None, None] for name, values in statistics.items()}, buffer)
        return {"latents_stats.pt": buffer.getvalue()}
