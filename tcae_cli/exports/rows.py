"""What is exported: the ok rows of a store, numbered 0, 1, ... in row order.

Axes: k rows, c channels, h w positions.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tcae_cli.errors import StoreError, UsageError
from tcae_cli.store.layout import read_array
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.spec import View


@dataclass(frozen=True)
class ExportRows:
    """The ok rows of a complete store, and what their values are multiplied by."""

    store: LatentStore
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.store.ok_rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """[c, h, w] of one row."""
        return self.store.sample_shape

    @property
    def num_values(self) -> int:
        """Values of one row."""
        return int(np.prod(self.shape))

    @property
    def view(self) -> View:
        """Of which image."""
        return self.store.spec.views[self.store.view]

    @property
    def scale_note(self) -> str:
        """What a trainer that scales latents itself has to be told."""
        return (
            f"values are raw latents x {self.scale:.6g}: leave the trainer's scaling at 1, and divide what it "
            f"generates by {self.scale:.6g} before decoding"
        )

    def raw(self, piece: range) -> np.ndarray:
        """Raw latents [k, c, h, w], in the store's dtype, float32 for int8."""
        return self.store.latents(self._rows[piece.start : piece.stop])

    def latents(self, piece: range, dtype: type[np.floating] = np.float32) -> np.ndarray:
        """Latents times the scale, [k, c, h, w]. Raises StoreError if the dtype cannot hold them."""
        with np.errstate(over="ignore", invalid="ignore"):  # told below
            values = (self.raw(piece).astype(np.float32) * np.float32(self.scale)).astype(dtype)
        if not np.isfinite(values).all():
            raise StoreError(
                f"{self.store.folder.uri}: latents times {self.scale:g} are beyond {values.dtype}; pass a lower --scale"
            )
        return values

    @cached_property
    def keys(self) -> list[str]:
        """Names of all rows."""
        return self.store.keys(self._rows)

    @cached_property
    def captions(self) -> list[str]:
        """Of all rows, "" where there is none."""
        return self.store.captions(self._rows)

    @cached_property
    def labels(self) -> np.ndarray:
        """Class numbers of all rows, int64, -1 where there is none."""
        return self.store.labels()[self.store.ok_rows]

    @cached_property
    def original_sizes(self) -> np.ndarray:
        """Height and width of the originals in pixels, [n, 2], int32."""
        return read_array(self.store.folder, "original_size")[self.store.ok_rows]

    def class_name(self, label: int) -> str:
        """The name of a class, "" where it has none."""
        names = self.store.spec.source.class_names
        return names[label] if 0 <= label < len(names) else ""

    def require_classes(self, trainer: str) -> None:
        """Raise UsageError if there is a row without a class: a trainer that is told -1 fails, or learns nonsense."""
        if missing := int((self.labels < 0).sum()):
            raise UsageError(
                f"{self.store.folder.uri}: {missing:,} of {len(self):,} rows have no class, and {trainer} trains on "
                "classes; encode images in class folders, or pass --format npy, webdataset or mds"
            )

    @cached_property
    def _rows(self) -> list[int]:
        rows: list[int] = self.store.ok_rows.tolist()
        return rows
