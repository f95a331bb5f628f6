"""LightningDiT (arXiv:2501.01423): safetensors of latents, mirrored latents and labels, and their statistics.

Its loader draws `latents` or `latents_flip` and takes (x - mean) / std, so values are raw.
"""

from io import BytesIO
from pathlib import Path

import torch
from safetensors.numpy import save

from tcae_cli.exports.pieces import PieceFormat
from tcae_cli.exports.rows import ExportRows
from tcae_cli.store.reader import LatentStore


class LightningDiT(PieceFormat):
    """latents_00000.safetensors, ... and latents_stats.pt."""

    name = "lightningdit"
    trainer = "LightningDiT"
    contents = "safetensors files of latents, mirrored latents and labels, raw, and latents_stats.pt"
    needs_classes = True
    value_bytes = 2 * 4  # float32, twice
    of_posterior = "a draw"
    closing_names = ("latents_stats.pt",)

    def __init__(self, rows: ExportRows) -> None:
        """Raises UsageError if the view has no mirrored twin, or rows have no class."""
        super().__init__(rows)
        self._flipped = ExportRows(LatentStore(rows.store.folder.uri, rows.store.mirrored_view()))

    @property
    def posterior_note(self) -> str:
        if self.rows.has_posterior:
            return (
                "latents are drawn from the posterior, once for each image and each mirrored image, as LightningDiT's "
                "own extraction draws them"
            )
        return "latents are the mode, since the store holds no posterior"

    def names(self, piece: range) -> list[str]:
        return [f"latents_{piece.start // self.rows_per_piece:05d}.safetensors"]  # names sort as rows do

    def files(self, piece: range) -> dict[str, bytes]:
        tensors = {
            "latents": self.rows.drawn(piece),
            "latents_flip": self._flipped.drawn(piece),
            "labels": self.rows.labels[piece.start : piece.stop],
        }
        return dict.fromkeys(self.names(piece), save(tensors))

    def closing_files(self, folder: Path) -> dict[str, bytes]:
        mean, std = map(torch.from_numpy, self.rows.store.channel_normalisation)
        buffer = BytesIO()
        torch.save({"mean": mean[None], "std": std[None]}, buffer)
        return dict.fromkeys(self.closing_names, buffer.getvalue())
