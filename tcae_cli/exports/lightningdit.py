"""LightningDiT (arXiv:2501.01423): safetensors of latents, mirrored latents and labels, and their statistics.

Its loader draws `latents` or `latents_flip` and takes (x - mean) / std: values are raw.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
from safetensors.numpy import save

from tcae_cli.exports.pieces import rows_per_piece
from tcae_cli.exports.rows import ExportRows
from tcae_cli.store.reader import LatentStore

_STATISTICS = "latents_stats.pt"
_MOST_ROWS = 4096  # of a file


@dataclass(frozen=True)
class SafetensorsFiles:
    """latents_00000.safetensors, ... and latents_stats.pt."""

    rows: ExportRows
    flipped: ExportRows

    @classmethod
    def of(cls, rows: ExportRows) -> "SafetensorsFiles":
        """Raises UsageError if the view has no mirrored twin, or rows have no class."""
        rows.require_classes("LightningDiT")
        store = rows.store
        return cls(rows, ExportRows(LatentStore(store.folder.uri, store.mirrored_view())))

    @property
    def rows_per_piece(self) -> int:
        return rows_per_piece(2 * 4 * self.rows.num_values, _MOST_ROWS)

    @property
    def notes(self) -> list[str]:
        return []

    def names(self, piece: range) -> list[str]:
        return [f"latents_{piece.start // self.rows_per_piece:05d}.safetensors"]  # rows in the order of sorted names

    @property
    def closing_names(self) -> tuple[str, ...]:
        return (_STATISTICS,)

    def files(self, piece: range) -> dict[str, bytes]:
        tensors = {
            "latents": self.rows.latents(piece),
            "latents_flip": self.flipped.latents(piece),
            "labels": self.rows.labels[piece.start : piece.stop],
        }
        return dict.fromkeys(self.names(piece), save(tensors))

    def closing(self, folder: Path) -> dict[str, bytes]:
        mean, std = map(torch.from_numpy, self.rows.store.channel_normalisation)
        buffer = BytesIO()
        torch.save({"mean": mean[None], "std": std[None]}, buffer)
        return {_STATISTICS: buffer.getvalue()}
