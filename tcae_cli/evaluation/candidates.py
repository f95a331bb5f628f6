"""The candidates of an evaluation: models, stores that a model decodes, folders of reconstructions or of samples.

Axes: b images, c latent channels, h w pixels or latent positions, d width of the patch tokens.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tcae_cli.autoencoders.runner import Runner
from tcae_cli.errors import ImageError, SourceError
from tcae_cli.images.image_file import decode_image
from tcae_cli.sources.source import Source
from tcae_cli.store.reader import LatentStore


@dataclass(frozen=True)
class Encoded:
    """The latents that a model encodes images into, and the tokens that they are made of."""

    latents: Tensor  # [b, c, h, w], float32
    tokens: Tensor | None  # [b, d], mean patch tokens before the bottleneck, of our own models


@dataclass(frozen=True)
class Pairs:
    """A batch of images and a candidate's reconstructions of them."""

    positions: Tensor  # [b], int64, on the CPU: their places among all that are evaluated
    originals: Tensor  # [b, 3, h, w], uint8
    decoded: Tensor  # the same shape, uint8
    encoded: Encoded | None  # None where there are only images
    features: dict[str, Tensor] = field(default_factory=dict)  # of `decoded`, by network, once a metric has asked


class Candidate(Protocol):
    """Something that makes reconstructions."""

    @property
    def name(self) -> str:
        """The heading of its column in a table."""

    def pairs(self, positions: Tensor, originals: Tensor) -> Pairs:
        """Return reconstructions of the images at these places; originals: [b, 3, h, w], uint8, on the device."""


@dataclass(frozen=True)
class ModelCandidate:
    """A model that encodes and decodes."""

    model: Runner

    @property
    def name(self) -> str:
        return self.model.name

    def pairs(self, positions: Tensor, originals: Tensor) -> Pairs:
        encoded = Encoded(*self.model.encode_with_tokens(originals))
        return Pairs(positions, originals, self.model.decode(encoded.latents, refuse_non_finite=True), encoded)


@dataclass(frozen=True)
class StoreCandidate:
    """A store's latents, and a model that decodes them."""

    name: str
    store: LatentStore
    rows: np.ndarray  # [n], int64, of the store: one for each image that is evaluated
    decoder: Runner

    def pairs(self, positions: Tensor, originals: Tensor) -> Pairs:
        stored = self.store.latents(self.rows[positions.numpy()].tolist())
        latents = torch.from_numpy(stored).float().to(originals.device)
        return Pairs(positions, originals, self.decoder.decode(latents, refuse_non_finite=True), Encoded(latents, None))


@dataclass(frozen=True)
class FolderCandidate:
    """Reconstructions that another program has made, as image files."""

    name: str
    source: Source
    rows: np.ndarray  # [n], int64, of the source: one for each image that is evaluated

    def pairs(self, positions: Tensor, originals: Tensor) -> Pairs:
        """Read the reconstructions of these images.

        Raises SourceError if one cannot be read, or is of another size than the originals.
        """
        rows = self.rows[positions.numpy()].tolist()
        with ThreadPoolExecutor() as readers:
            decoded = torch.stack(list(readers.map(lambda row: self._read(row, originals.shape[-2:]), rows)))
        return Pairs(positions, originals, decoded.to(originals.device), None)

    def _read(self, row: int, size: Sequence[int]) -> Tensor:
        """Return the reconstruction of a row, [3, h, w], uint8."""
        pixels = read_picture(self.source, row)
        if pixels.shape[:2] != tuple(size):
            found = "x".join(map(str, pixels.shape[:2]))
            raise SourceError(
                f"{self.name}: {self.source.key(row)} is {found} pixels, others are {size[0]}x{size[1]}; "
                f"reconstructions are squares of one size and are not resized"
            )
        return torch.from_numpy(pixels).permute(2, 0, 1)


@dataclass(frozen=True)
class SamplesCandidate:
    """Generated images, which have no originals and take their place."""

    name: str

    def pairs(self, positions: Tensor, originals: Tensor) -> Pairs:
        return Pairs(positions, originals, originals, None)


def read_picture(source: Source, row: int) -> np.ndarray:
    """Return the picture of a row, uncropped, [h, w, 3], uint8. Raises SourceError if it cannot be read."""
    try:
        return decode_image(source.read(row))
    except ImageError as error:
        raise SourceError(f"{source.uri}: {source.key(row)} cannot be used ({error}); make it again") from error
