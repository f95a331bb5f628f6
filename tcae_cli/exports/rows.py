"""The rows that are exported: those of a store that are ok, numbered 0, 1, ... in row order.

Axes: k rows, c channels, h w positions.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tcae_cli.errors import StoreError
from tcae_cli.store.generator_input import GeneratorInput
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.spec import View

_SEED = 0


@dataclass(frozen=True)
class ExportRows:
    """The ok rows of a complete store, and the number that their values are multiplied by, or what generators take."""

    store: LatentStore
    scale: float = 1.0
    generator: GeneratorInput | None = None  # applied in place of the scale

    def __len__(self) -> int:
        return len(self.store.ok_rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """[c, h, w] of one row."""
        return self.generator.shape(self.store.sample_shape) if self.generator else self.store.sample_shape

    @property
    def num_values(self) -> int:
        """The number of values in one row."""
        return int(np.prod(self.shape))

    @property
    def view(self) -> View:
        """The size of the encoded images, and whether they are mirrored."""
        return self.store.spec.views[self.store.view]

    @property
    def crop_shape(self) -> tuple[int, int]:
        """The height and width of the encoded images, in pixels."""
        pixels = self.store.spec.latent.downsampling
        return self.view.height * pixels, self.view.width * pixels

    @property
    def scale_note(self) -> str:
        """A sentence for users of a trainer that scales latents itself."""
        if self.generator:
            return (
                f"values are {self.generator.words}, as the generators of {self.store.spec.encoder.name} take them: "
                f"leave the trainer's scaling at 1, and undo this before decoding, with the numbers of generator in "
                f"tcae_export.json"
            )
        return (
            f"values are raw latents x {self.scale:.6g}: leave the trainer's scaling at 1, and divide what it "
            f"generates by {self.scale:.6g} before decoding"
        )

    @property
    def has_posterior(self) -> bool:
        """Whether the store has the deviations of its latents."""
        return self.store.spec.latent.posterior

    def deviations(self, piece: range) -> np.ndarray:
        """Return the posterior's standard deviations, [k, c, h, w], float32, raw; zero where the store has none."""
        if self._deviations is None:
            return np.zeros((len(piece), *self.store.sample_shape), np.float32)
        return self._deviations.latents(self._rows[piece.start : piece.stop]).astype(np.float32)

    def drawn(self, piece: range) -> np.ndarray:
        """Return raw latents drawn from the posterior, [k, c, h, w], float32, the same ones every time; else the mode.

        Each view of a row has noise of its own.
        """
        mean = self.raw(piece).astype(np.float32)
        if self._deviations is None:
            return mean
        seeds = [[_SEED, self.view.size, self.view.flip, row] for row in self._rows[piece.start : piece.stop]]
        noise = [np.random.default_rng(seed).standard_normal(mean.shape[1:], np.float32) for seed in seeds]
        return mean + self.deviations(piece) * np.stack(noise)

    def raw(self, piece: range) -> np.ndarray:
        """Return raw latents [k, c, h, w], in the store's dtype, float32 for int8."""
        return self.store.latents(self._rows[piece.start : piece.stop])

    def latents(self, piece: range, dtype: type[np.floating] = np.float32) -> np.ndarray:
        """Return latents times the scale, or as generators take them, [k, c, h, w].

        Raises StoreError if the dtype cannot hold them.
        """
        raw = self.raw(piece).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # reported below
            if self.generator:
                mean, std = self.generator.mean_and_std()
                values = ((self.generator.patches(raw) - mean) / std).astype(dtype)
            else:
                values = (raw * np.float32(self.scale)).astype(dtype)
        if not np.isfinite(values).all():
            scale = "as generators take them" if self.generator else f"times {self.scale:g}"
            fix = "pass a number as --scale" if self.generator else "pass a lower --scale"
            raise StoreError(f"{self.store.folder.uri}: latents {scale} are beyond {values.dtype}; {fix}")
        return values

    @cached_property
    def keys(self) -> list[str]:
        """The keys of all rows."""
        return self.store.keys(self._rows)

    @cached_property
    def captions(self) -> list[str]:
        """The captions of all rows, "" for a row without one."""
        return self.store.captions(self._rows)

    @cached_property
    def labels(self) -> np.ndarray:
        """The class numbers of all rows, int64, -1 for a row without one."""
        return self.store.labels()[self.store.ok_rows]

    @cached_property
    def original_sizes(self) -> np.ndarray:
        """The height and width of the originals in pixels, [n, 2], int32."""
        return self.store.original_sizes()[self.store.ok_rows]

    def class_name(self, label: int) -> str:
        """Return the name of a class, "" if it has none."""
        names = self.store.spec.source.class_names
        return names[label] if 0 <= label < len(names) else ""

    @cached_property
    def _deviations(self) -> LatentStore | None:
        return self.store.deviations() if self.has_posterior else None

    @cached_property
    def _rows(self) -> list[int]:
        rows: list[int] = self.store.ok_rows.tolist()
        return rows
