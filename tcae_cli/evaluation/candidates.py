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

from tcae_cli.autoencoders.by_name import Autoencoder
from tcae_cli.errors import ImageError, SourceError, TcaeError
from tcae_cli.images.image_file import decode_image
from tcae_cli.images.transform import to_float, to_uint8
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.choices import Precision
from tcae_cli.runtime.device import autocast, naming_the_batch_size
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
    """A model that encodes and decodes, on a device at a precision."""

    name: str
    model: Autoencoder
    device: torch.device
    precision: Precision

    def encode(self, originals: Tensor) -> Encoded:
        """Return latents, and the tokens they were made of; originals: [b, 3, h, w], uint8."""
        images = to_float(originals)
        with naming_the_batch_size(len(originals)), autocast(self.device, self.precision):
            if isinstance(self.model, TCAE):
                latents, tokens = self.model.encode_with_tokens(images)
                return Encoded(latents.float(), tokens.float().mean(dim=(1, 2)))
            return Encoded(self.model.encode(images).float(), None)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images, uint8, of latents [b, c, h, w], float32. Raises TcaeError if a value is not finite."""
        with naming_the_batch_size(len(latents)), autocast(self.device, self.precision):
            images = self.model.decode(latents)
        if not images.isfinite().all():
            raise TcaeError(f"{self.name} decodes to what is not a number; try --precision fp32, or mend the model")
        return to_uint8(images)

    def pairs(self, positions: Tensor, originals: Tensor) -> Pairs:
        encoded = self.encode(originals)
        return Pairs(positions, originals, self.decode(encoded.latents), encoded)


@dataclass(frozen=True)
class StoreCandidate:
    """A store's latents, and a model that decodes them."""

    name: str
    store: LatentStore
    rows: np.ndarray  # [n], int64, of the store: one for each image that is evaluated
    decoder: ModelCandidate

    def pairs(self, positions: Tensor, originals: Tensor) -> Pairs:
        stored = self.store.latents(self.rows[positions.numpy()].tolist())
        latents = torch.from_numpy(stored).float().to(originals.device)
        return Pairs(positions, originals, self.decoder.decode(latents), Encoded(latents, None))


@dataclass(frozen=True)
class FolderCandidate:
    """Reconstructions that another program has made, as image files."""

    name: str
    source: Source
    rows: np.ndarray  # [n], int64, of the source: one for each image that is evaluated

    def pairs(self, positions: Tensor, originals: Tensor) -> Pairs:
        """Raises SourceError for a reconstruction that cannot be read, or is of another size than the originals."""
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
