"""Measures how well a model in training reconstructs a fixed set of images, in figures and in a picture.

It does not use autoencoders/runner.py, which would switch TF32 off and change the figures of an fp32 run on a GPU.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from tcae_cli.errors import SourceError
from tcae_cli.images.loader import load_readable
from tcae_cli.images.pictures import to_pixels, write_pairs
from tcae_cli.images.transform import Transform, to_float, to_uint8
from tcae_cli.metrics.frechet import FeatureSums, frechet_distance
from tcae_cli.metrics.image import mean_without_infinite, metrics_of
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import Recipe
from tcae_cli.runtime.device import autocast
from tcae_cli.sources.source import Source

_NUM_IMAGES = 256  # at most
_NUM_DRAWN = 8
_BATCH_SIZE = 32
_KEPT_BYTES = 64 * 2**20  # at most, of decoded images in memory; more are read anew each time


class Validation:
    """Measures on up to 256 images spread evenly over a source, in the centre crops of `tcae eval`.

    Images that cannot be read are omitted. Raises SourceError if none can be read.
    """

    def __init__(
        self, source: Source, recipe: Recipe, device: torch.device, inception: nn.Module | None, name: str
    ) -> None:
        """inception: load_inception's network on the device, or None to omit rFID. name: "val" or "train"."""
        self._source = source
        self._recipe = recipe
        self._device = device
        self._inception = inception
        self._name = name
        self._rows = _spread(len(source)) if source.access == "row" else sorted(_spread(len(source)))
        self._metrics = metrics_of(recipe.model.image_size)
        image_bytes = 3 * recipe.model.image_size**2
        self._kept = list(self._read()) if len(self._rows) * image_bytes <= _KEPT_BYTES else None
        self._original_features: list[Tensor] = []  # they do not change

    @torch.no_grad()
    def figures(self, model: TCAE) -> dict[str, float]:
        """Return mean PSNR in dB and SSIM after a uint8 round trip, and rFID, as {name}_psnr, _ssim and _rfid.

        The PSNR is the mean over images that differ from their reconstruction. Images smaller than SSIM's window have
        no SSIM. rFID compares these very images, at least two, with their reconstructions. With so few images it shows
        how a run progresses, and is not comparable with published values.
        """
        of_images: dict[str, list[Tensor]] = {name: [] for name in self._metrics}
        decoded_features: list[Tensor] = []
        for number, originals in enumerate(self._batches()):
            originals = originals.to(self._device)
            decoded = self._round_trip(model, originals)
            for name, metric in self._metrics.items():
                of_images[name].append(metric(originals / 255, decoded / 255).cpu())
            if self._inception is not None:
                decoded_features.append(self._inception(decoded))
                if number == len(self._original_features):
                    self._original_features.append(self._inception(originals))
        figures = {
            f"{self._name}_{name}": mean_without_infinite(torch.cat(values)) for name, values in of_images.items()
        }
        if self._inception is not None and sum(map(len, decoded_features)) > 1:
            sides = (FeatureSums.of(features).gaussian() for features in (self._original_features, decoded_features))
            figures[f"{self._name}_rfid"] = frechet_distance(*sides)
        return figures

    @torch.no_grad()
    def draw(self, model: TCAE, path: Path) -> None:
        """Write a PNG of eight of the images above their reconstructions."""
        originals = next(self._batches())[:_NUM_DRAWN]
        decoded = self._round_trip(model, originals.to(self._device))
        write_pairs(path, to_pixels(originals), to_pixels(decoded), replace=True)

    def _round_trip(self, model: TCAE, images: Tensor) -> Tensor:
        with autocast(self._device, self._recipe.train.precision):
            return to_uint8(model(to_float(images)))

    def _batches(self) -> Iterator[Tensor]:
        return self._read() if self._kept is None else iter(self._kept)

    def _read(self) -> Iterator[Tensor]:
        """Yield the readable images of each 32 rows, [b, 3, h, w], uint8, on the CPU."""
        found = False
        for start in range(0, len(self._rows), _BATCH_SIZE):
            rows = self._rows[start : start + _BATCH_SIZE]
            [good] = load_readable(self._source, rows, Transform.square(self._recipe.model.image_size, "adm"))
            if len(good):
                found = True
                yield good
        if not found:
            raise SourceError(
                f"{self._source.uri}: none of the {len(self._rows)} images for validation can be read; "
                f"give others with --val"
            )


def _spread(num_rows: int) -> list[int]:
    """Return rows spread evenly over all, in an order whose first eight are spread evenly too."""
    count = min(_NUM_IMAGES, num_rows)
    rows = [place * num_rows // count for place in range(count)]
    stride = -(-count // _NUM_DRAWN)
    return [row for first in range(stride) for row in rows[first::stride]]
