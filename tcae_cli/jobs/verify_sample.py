"""A sample of a store's rows: what their latents decode to, against their images and against latents encoded now.

Axes: k rows, c latent channels, h w pixels or latent positions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tcae_cli.autoencoders.runner import Runner, load_runner
from tcae_cli.images.image_file import draw_grid, encode_image
from tcae_cli.images.loader import load_rows
from tcae_cli.metrics.image import psnr
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime.files import make_folder, write_atomic
from tcae_cli.runtime.folder import Folder
from tcae_cli.sources.source import Source
from tcae_cli.store.layout import read_spec
from tcae_cli.store.quantise import as_float, quantise, scale_of
from tcae_cli.store.shard_reader import ShardReader
from tcae_cli.store.spec import MAIN_VIEW, StoreSpec

_BATCH_ROWS = 8
_WORSE_DB = 1.0  # another device or precision changes far less
_EXACT_DB = 100.0  # shown where two images are equal
_PICTURE_ROWS, _COLUMNS = 64, 8


@dataclass
class Sample:
    """What came out of it."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # row, key, view, psnr, psnr_fresh
    num_without_image: int = 0
    picture: Path | None = None

    def mean_psnr(self) -> dict[str, dict[str, float]]:
        """Mean over the rows of each view, in dB."""
        of_view: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            of_view.setdefault(row["view"], []).append(row)
        return {
            view: {name: float(np.mean([row[name] for row in rows])) for name in ("psnr", "psnr_fresh")}
            for view, rows in of_view.items()
        }


@dataclass(frozen=True)
class _Decoder:
    """Decodes latents of a view, stored or encoded anew."""

    runner: Runner
    spec: StoreSpec

    def decode(self, latents: np.ndarray) -> Tensor:
        """Images [k, 3, h, w], uint8, of float32 latents [k, c, h, w]."""
        return self.runner.at("fp32").decode(torch.from_numpy(latents)).cpu()

    def encode(self, images: Tensor, view: str) -> np.ndarray:
        """Latents as a reader of a store would get them, float32, [k, c, h, w], of images [k, 3, h, w], uint8."""
        latents = self.runner.encode(images).cpu().numpy()
        scale = scale_of(self.spec, view)
        stored = latents.astype(self.spec.dtype) if scale is None else quantise(latents, scale)[0]
        return as_float(stored, self.spec, view)


def compare_sample(
    folder: Folder,
    model: str,
    device: torch.device,
    source: Source,
    hashes: dict[int, int],
    picture: Path,
    add: Callable[[str], None],
    progress: Progress,
) -> Sample:
    """Decode rows of every view; latents that decode worse than those of their image do are told to `add`.

    hashes: rows, ascending, with the hash of their image's bytes. The picture of the main view shows originals above
    what their latents decode to; a file that is there is not overwritten. Raises DiskError if it cannot be written.
    """
    spec, sample, rows = read_spec(folder), Sample(), list(hashes)
    decoder = _Decoder(load_runner(model, device, spec.compute.dtype), spec)
    readers = {view: ShardReader(folder, spec, view) for view in spec.views}
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    progress.start("decode a sample", len(rows))
    for start in range(0, len(rows), _BATCH_ROWS):
        batch = rows[start : start + _BATCH_ROWS]
        images = {size: _images(source, batch, size, spec, hashes) for size in spec.sizes}
        for name, view in spec.views.items():
            there, pixels = images[view.size]
            if there:
                originals = pixels.flip(-1) if view.flip else pixels
                decoded = _compare(decoder, readers[name], name, there, originals, source, sample, add)
                if name == MAIN_VIEW:
                    pairs += zip(_pictures(originals), _pictures(decoded), strict=True)
        sample.num_without_image += len(batch) - len(images[spec.sizes[0]][0])
        del pairs[_PICTURE_ROWS:]
        progress.advance(len(batch))
    if pairs:
        sample.picture = _draw(pairs, picture)
    return sample


def _images(
    source: Source, rows: list[int], size: int, spec: StoreSpec, hashes: dict[int, int]
) -> tuple[list[int], Tensor]:
    """Those of the rows whose image is still the same, and what the encoder saw of them, [k, 3, h, w], uint8."""
    images, found, failures = load_rows(source, rows, size, spec.transform.resize)
    slots = [slot for slot, row in enumerate(rows) if row not in failures and int(found[slot]) == hashes[row]]
    return [rows[slot] for slot in slots], images[slots]


def _compare(
    decoder: _Decoder,
    reader: ShardReader,
    view: str,
    rows: list[int],
    originals: Tensor,
    source: Source,
    sample: Sample,
    add: Callable[[str], None],
) -> Tensor:
    """What the stored latents of these rows decode to, [k, 3, h, w], uint8."""
    chunks = [reader.chunk(row) for row in rows]
    stored = np.stack([reader.stored(row, chunk or b"") for row, chunk in zip(rows, chunks, strict=True)])
    decoded = decoder.decode(as_float(stored, decoder.spec, view))
    figures = _psnr(originals, decoded), _psnr(originals, decoder.decode(decoder.encode(originals, view)))
    for row, is_now, could_be in zip(rows, *figures, strict=True):
        key = source.key(row)
        sample.rows.append({"row": row, "key": key, "view": view, "psnr": is_now, "psnr_fresh": could_be})
        if is_now < could_be - _WORSE_DB:
            add(
                f"{view}: the latents of row {row} are not those of {key}: they decode to it at {is_now:.1f} dB, "
                f"its own at {could_be:.1f} dB"
            )
    return decoded


def _psnr(originals: Tensor, decoded: Tensor) -> list[float]:
    figures: list[float] = psnr(originals / 255, decoded / 255).clamp(max=_EXACT_DB).tolist()
    return figures


def _pictures(images: Tensor) -> list[np.ndarray]:
    return list(images.permute(0, 2, 3, 1).numpy())


def _draw(pairs: list[tuple[np.ndarray, np.ndarray]], path: Path) -> Path:
    """Originals above what their latents decode to, in a file of a new name: path, path-2 and so on."""
    lines = []
    for start in range(0, len(pairs), _COLUMNS):
        originals, decoded = zip(*pairs[start : start + _COLUMNS], strict=True)
        lines += [originals, decoded]
    free, number = path, 2
    while free.exists():
        free, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    make_folder(free.parent)
    write_atomic(free, encode_image(draw_grid(lines), "png"))
    return free
