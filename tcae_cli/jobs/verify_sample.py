"""A sample of a store's rows: their latents decoded, against their images and against latents encoded now.

Axes: k rows, c latent channels, h w pixels or latent positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tcae_cli.autoencoders.runner import Runner
from tcae_cli.images.loader import load_rows
from tcae_cli.images.pictures import to_pixels, write_pairs
from tcae_cli.images.transform import Transform
from tcae_cli.jobs.encoder import encode_view, round_values
from tcae_cli.jobs.verification import Verification
from tcae_cli.metrics.image import psnr
from tcae_cli.sources.source import Source
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.quantise import as_float
from tcae_cli.store.shard_reader import ShardReader
from tcae_cli.store.spec import MAIN_VIEW

_BATCH_ROWS = 8
_WORSE_DB = 1.0  # another device or precision changes far less
_OTHER_DEVIATIONS = 0.5  # of the root mean square of a row's; another device or precision changes far less
_EXACT_DB = 100.0  # shown where two images are equal
_PICTURE_ROWS = 64


@dataclass
class Sample:
    """The figures of a sample."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # row, key, view, psnr, psnr_fresh
    num_without_image: int = 0
    picture: Path | None = None

    def mean_psnr(self) -> dict[str, dict[str, float]]:
        """Return the means over the rows of each view, in dB."""
        of_view: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            of_view.setdefault(row["view"], []).append(row)
        return {
            view: {name: float(np.mean([row[name] for row in rows])) for name in ("psnr", "psnr_fresh")}
            for view, rows in of_view.items()
        }


@dataclass(frozen=True, kw_only=True)
class SampledRows:
    """Rows of one store, by itself or a bucket, that are decoded."""

    store: StoreHandle
    samples: Sequence[int]  # of the source, that the store's rows are of
    transform: Transform
    hashes: Mapping[int, int]  # of the images' bytes, by row; the rows are ascending
    where: str  # the bucket, before what is said of it


def compare_sample(
    verification: Verification, runner: Runner, source: Source, drawn: Sequence[SampledRows], picture: Path
) -> Sample:
    """Decode rows in every view; latents that decode worse than those encoded now from their image are a problem.

    runner: of the store's model, at the store's precision. The picture of the main view shows originals above what
    their latents decode to; an existing file is kept. Raises DiskError if the picture cannot be written.
    """
    verification.progress.start("decode a sample", sum(len(rows.hashes) for rows in drawn))
    comparison = _Comparison(verification, runner, source)
    for rows in drawn:
        comparison.compare(rows)
    sample, shown = comparison.sample, comparison.shown
    if shown[0]:
        sample.picture = write_pairs(picture, shown[0][:_PICTURE_ROWS], shown[1][:_PICTURE_ROWS])
    return sample


@dataclass
class _Comparison:
    """Compares rows of one store after another, and collects the figures and the pictures of all."""

    verification: Verification
    runner: Runner
    source: Source
    sample: Sample = field(default_factory=Sample)
    shown: tuple[list[np.ndarray], list[np.ndarray]] = field(default_factory=lambda: ([], []))

    def compare(self, drawn: SampledRows) -> None:
        """Compare the rows of one store."""
        spec, rows = drawn.store.spec, list(drawn.hashes)
        views = {name: _SampledView(self.runner, drawn.store, name) for name in spec.views}
        for start in range(0, len(rows), _BATCH_ROWS):
            batch = rows[start : start + _BATCH_ROWS]
            unchanged, images = _unchanged_images(self.source, batch, drawn)
            for name, view in spec.views.items() if unchanged else ():
                originals = images[view.size].flip(-1) if view.flip else images[view.size]
                stored, encoded = views[name].stored(unchanged), views[name].encoded(originals)
                decoded, fresh = (views[name].decode(latents[name]) for latents in (stored, encoded))
                for figures in zip(unchanged, _psnr(originals, decoded), _psnr(originals, fresh), strict=True):
                    self._note(drawn, name, *figures)
                for array in spec.arrays_of(name)[1:]:
                    self._compare_deviations(drawn, array, unchanged, stored[array], encoded[array])
                if name == MAIN_VIEW and len(self.shown[0]) < _PICTURE_ROWS:
                    self.shown[0].extend(to_pixels(originals))
                    self.shown[1].extend(to_pixels(decoded))
            self.sample.num_without_image += len(batch) - len(unchanged)
            self.verification.progress.advance(len(batch))

    def _note(self, drawn: SampledRows, view: str, row: int, of_stored: float, of_fresh: float) -> None:
        """Take down the figures of a row, in dB; latents that decode much worse than fresh ones are a problem."""
        key = self.source.key(drawn.samples[row])
        self.sample.rows.append({"row": row, "key": key, "view": view, "psnr": of_stored, "psnr_fresh": of_fresh})
        if of_stored < of_fresh - _WORSE_DB:
            self.verification.add_problem(
                f"{drawn.where}{view}: the latents of row {row} are not those of {key}: they decode to it at "
                f"{of_stored:.1f} dB, its own at {of_fresh:.1f} dB"
            )

    def _compare_deviations(
        self, drawn: SampledRows, array: str, rows: list[int], stored: np.ndarray, encoded: np.ndarray
    ) -> None:
        """Report rows whose deviations, [k, c, h, w], are far from those encoded now."""
        errors, sizes = (np.sqrt(np.square(each).mean(axis=(1, 2, 3))) for each in (stored - encoded, encoded))
        for row in np.array(rows)[errors > _OTHER_DEVIATIONS * sizes].tolist():
            key = self.source.key(drawn.samples[row])
            self.verification.add_problem(f"{drawn.where}{array}: the deviations of row {row} are not those of {key}")


class _SampledView:
    """Reads and encodes values of one view, as its arrays hold them, and decodes its latents."""

    def __init__(self, runner: Runner, store: StoreHandle, view: str) -> None:
        self._runner, self._spec, self._view = runner, store.spec, view
        self._readers = {array: ShardReader(store.folder, store.spec, array) for array in store.spec.arrays_of(view)}

    def stored(self, rows: list[int]) -> dict[str, np.ndarray]:
        """Return the values of rows in each array, [k, c, h, w], float32."""
        return {
            array: as_float(np.stack([reader.stored(row, reader.chunk(row) or b"") for row in rows]), self._spec, array)
            for array, reader in self._readers.items()
        }

    def encoded(self, images: Tensor) -> dict[str, np.ndarray]:
        """Return the values that encoding these images, [k, 3, h, w], uint8, would store now, alike."""
        fresh = encode_view(self._runner, self._spec, self._view, images)
        return {array: round_values(values.cpu().numpy(), self._spec, array)[1] for array, values in fresh.items()}

    def decode(self, latents: np.ndarray) -> Tensor:
        """Return images [k, 3, h, w], uint8, on the host."""
        return self._runner.at("fp32").decode(torch.from_numpy(latents)).cpu()


def _unchanged_images(source: Source, rows: list[int], drawn: SampledRows) -> tuple[list[int], dict[int, Tensor]]:
    """Return those of the rows whose image has its old bytes, and by size the images as the encoder saw them."""
    samples = [drawn.samples[row] for row in rows]
    images, found, failures = load_rows(source, samples, drawn.transform)
    slots = [
        slot for slot, row in enumerate(rows) if samples[slot] not in failures and int(found[slot]) == drawn.hashes[row]
    ]
    of_size = {size: pixels[slots] for size, pixels in zip(drawn.store.spec.sizes, images, strict=True)}
    return [rows[slot] for slot in slots], of_size


def _psnr(originals: Tensor, decoded: Tensor) -> list[float]:
    figures: list[float] = psnr(originals / 255, decoded / 255).clamp(max=_EXACT_DB).tolist()
    return figures
