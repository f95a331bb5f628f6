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
from tcae_cli.jobs.verification import Verification
from tcae_cli.metrics.image import psnr
from tcae_cli.sources.source import Source
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.quantise import as_float, quantise, scale_of
from tcae_cli.store.shard_reader import ShardReader
from tcae_cli.store.spec import MAIN_VIEW, StoreSpec

_BATCH_ROWS = 8
_WORSE_DB = 1.0  # another device or precision changes far less
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
        decoders = {
            view: _ViewDecoder(self.runner, ShardReader(drawn.store.folder, spec, view), spec, view)
            for view in spec.views
        }
        for start in range(0, len(rows), _BATCH_ROWS):
            batch = rows[start : start + _BATCH_ROWS]
            unchanged, images = _unchanged_images(self.source, batch, drawn)
            for name, view in spec.views.items() if unchanged else ():
                originals = images[view.size].flip(-1) if view.flip else images[view.size]
                decoded = decoders[name].decode_stored(unchanged)
                fresh = decoders[name].decode_fresh(originals)
                for figures in zip(unchanged, _psnr(originals, decoded), _psnr(originals, fresh), strict=True):
                    self._note(drawn, name, *figures)
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


@dataclass(frozen=True)
class _ViewDecoder:
    """Decodes latents of one view, those stored and those that encoding would store now."""

    runner: Runner
    reader: ShardReader
    spec: StoreSpec
    view: str

    def decode_stored(self, rows: list[int]) -> Tensor:
        """Return images [k, 3, h, w], uint8, on the host."""
        stored = np.stack([self.reader.stored(row, self.reader.chunk(row) or b"") for row in rows])
        return self._decode(stored)

    def decode_fresh(self, images: Tensor) -> Tensor:
        """Return what encoding these images, [k, 3, h, w], uint8, and decoding again gives, on the host."""
        latents = self.runner.encode(images).cpu().numpy()
        scale = scale_of(self.spec, self.view)
        return self._decode(latents.astype(self.spec.dtype) if scale is None else quantise(latents, scale)[0])

    def _decode(self, stored: np.ndarray) -> Tensor:
        latents = torch.from_numpy(as_float(stored, self.spec, self.view))
        return self.runner.at("fp32").decode(latents).cpu()


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
