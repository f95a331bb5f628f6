"""MosaicML's MDS shards (mosaicml/diffusion, micro_diffusion): latents_SIZE as float16 bytes, scaled.

Their loaders know the shape; MDS does not.
"""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tcae_cli.errors import StoreError, UsageError
from tcae_cli.exports.pieces import pieces_of, rows_per_piece
from tcae_cli.exports.rows import ExportRows

_INDEX = "index.json"
_MOST_ROWS = 4096  # of a folder


@dataclass(frozen=True)
class MdsFolders:
    """00000/shard.00000.mds, ..., an index in each folder and one of all."""

    rows: ExportRows

    def __post_init__(self) -> None:
        if find_spec("streaming") is None:
            raise UsageError("--format mds needs MosaicML's streaming; run pip install mosaicml-streaming")

    @property
    def rows_per_piece(self) -> int:
        return rows_per_piece(2 * self.rows.num_values, _MOST_ROWS)

    @property
    def notes(self) -> list[str]:
        return [
            f"{self._column} holds float16 of shape {self.rows.shape}, which the loader has to know",
            self.rows.scale_note,
        ]

    def last_name(self, piece: range) -> str:
        return f"{piece.start // self.rows_per_piece:05d}/{_INDEX}"

    def files(self, piece: range) -> dict[str, bytes]:
        from streaming import MDSWriter

        folder = Path(self.last_name(piece)).parent
        columns = {self._column: "bytes", "label": "int", "caption": "str", "key": "str"}
        latents = self._float16(piece)
        with TemporaryDirectory() as scratch:
            with MDSWriter(out=f"{scratch}/mds", columns=columns) as writer:
                for row, each in zip(piece, latents, strict=True):
                    writer.write(
                        {
                            self._column: each.tobytes(),
                            "label": int(self.rows.labels[row]),
                            "caption": self.rows.captions[row],
                            "key": self.rows.keys[row],
                        }
                    )
            return {str(folder / path.name): path.read_bytes() for path in sorted(Path(scratch, "mds").iterdir())}

    def closing(self, folder: Path) -> dict[str, bytes]:
        """The index of all folders, in the order of rows, which streaming's own merge_index does not keep."""
        shards = []
        for piece in pieces_of(range(len(self.rows)), self.rows_per_piece):
            index = Path(self.last_name(piece))
            for shard in json.loads((folder / index).read_bytes())["shards"]:
                shard["raw_data"]["basename"] = str(index.parent / shard["raw_data"]["basename"])
                shards.append(shard)
        return {_INDEX: json.dumps({"version": 2, "shards": shards}).encode()}

    def _float16(self, piece: range) -> np.ndarray:
        with np.errstate(over="ignore"):
            values = self.rows.latents(piece).astype(np.float16)
        if not np.isfinite(values).all():
            uri, scale = self.rows.store.folder.uri, self.rows.scale
            raise StoreError(f"{uri}: latents times {scale:g} are beyond float16; pass a lower --scale")
        return values

    @property
    def _column(self) -> str:
        return f"latents_{self.rows.view.size}"
