"""`tcae decode`: a store's latents back to image files, and a picture of originals above reconstructions."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from tcae_cli.autoencoders.by_name import read_card
from tcae_cli.autoencoders.runner import Runner, load_runner
from tcae_cli.errors import SourceError, StoreError, UsageError
from tcae_cli.images.file_names import file_name
from tcae_cli.images.image_file import draw_grid, encode_image
from tcae_cli.images.loader import load_rows
from tcae_cli.recipe.choices import ImageFormat
from tcae_cli.reports.decode import DecodeReport, DecodeRequest
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime.device import choose_device
from tcae_cli.runtime.files import make_folder, write_atomic
from tcae_cli.sources.source import load_source
from tcae_cli.store.layout import index_folder
from tcae_cli.store.reader import LatentStore

_BATCH_PIXELS = 32 * 256**2  # SD's decoder takes some 270 MB for each 256 x 256
_COLUMNS = 8  # of the picture


def decode_store(request: DecodeRequest, progress: Progress) -> DecodeReport:
    """Write each ok row as an image file named after its key; files already there are left alone and counted.

    Raises StoreError if the model's encoder is not the one that made the latents, unless request.force.
    """
    started = time.perf_counter()
    store = LatentStore(request.store, request.view)
    decoder = _load_decoder(request, store)
    chosen = range(len(store))[parse_rows(request.rows)]
    ok = [row for row in chosen if store.status()[row] == 1]
    files = {
        row: request.out_dir / f"{file_name(key)}.{request.format}" for row, key in zip(ok, store.keys(ok), strict=True)
    }
    todo = [row for row in ok if not files[row].exists()]

    make_folder(request.out_dir)
    progress.start("decode", len(ok), done=len(ok) - len(todo))
    with ThreadPoolExecutor() as writers:
        for rows, images in decoder.images(todo):
            for _ in writers.map(_write, (files[row] for row in rows), images, [request.format] * len(rows)):
                progress.advance()

    return DecodeReport(
        out_dir=request.out_dir,
        num_written=len(todo),
        num_skipped_existing=len(ok) - len(todo),
        num_not_ok=len(chosen) - len(ok),
        grid=_draw_grid(request, decoder, ok, progress) if request.grid and ok else None,
        elapsed_s=time.perf_counter() - started,
    )


def parse_rows(text: str | None) -> slice:
    """The slice meant by "100", "0:100", "100:" or ":100". Raises UsageError for anything else."""
    if text is None:
        return slice(None)
    found = re.fullmatch(r"(\d+)|(\d*):(\d*)", text)
    if not found:
        raise UsageError(f"--rows {text} is not a row or a range of rows; write 7, 0:100, 100: or :100")
    if found[1]:
        return slice(int(found[1]), int(found[1]) + 1)
    return slice(*(int(bound) if bound else None for bound in found.group(2, 3)))


@dataclass(frozen=True)
class _Decoder:
    """Decodes rows of a store."""

    runner: Runner
    store: LatentStore

    def images(self, rows: list[int]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Batches of rows and their images [k, h, w, 3], uint8."""
        batch_size = max(1, _BATCH_PIXELS // self.store.spec.views[self.store.view].size ** 2)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            images = self.runner.decode(torch.from_numpy(self.store.latents(batch)).float())
            yield batch, images.permute(0, 2, 3, 1).cpu().numpy()


def _load_decoder(request: DecodeRequest, store: LatentStore) -> _Decoder:
    encoder = store.spec.encoder
    name = request.model or encoder.name
    card, latent = read_card(name), store.spec.latent
    if not request.force:
        store.refuse_other_encoder(
            card.encoder_hash, name, "pass --model with the first, or --force to decode all the same"
        )
    if card.latent_channels != latent.channels:
        raise StoreError(
            f"{request.store} holds latents of {latent.channels} channels, {name} decodes "
            f"{card.latent_channels}; pass another --model"
        )
    return _Decoder(load_runner(name, choose_device(request.device), "fp32"), store)


def _write(path: Path, pixels: np.ndarray, image_format: ImageFormat) -> None:
    make_folder(path.parent)
    write_atomic(path, encode_image(pixels, image_format))


def _draw_grid(request: DecodeRequest, decoder: _Decoder, ok: list[int], progress: Progress) -> Path:
    """OUT_DIR/grid.png, or grid-2.png and so on: nothing that is there is overwritten."""
    chosen = [ok[i * len(ok) // min(request.grid, len(ok))] for i in range(min(request.grid, len(ok)))]
    decoded = {row: image for rows, images in decoder.images(chosen) for row, image in zip(rows, images, strict=True)}
    originals = read_originals(decoder.store, chosen)
    if len(originals) < len(chosen):
        progress.say(
            f"{len(chosen) - len(originals)} originals have changed or are gone; the picture leaves them blank"
        )
    blank = np.full_like(decoded[chosen[0]], 255)
    lines = []
    for start in range(0, len(chosen), _COLUMNS):
        columns = chosen[start : start + _COLUMNS]
        lines += [[originals.get(row, blank) for row in columns], [decoded[row] for row in columns]]
    path = request.out_dir / "grid.png"
    number = 2
    while path.exists():
        path, number = request.out_dir / f"grid-{number}.png", number + 1
    write_atomic(path, encode_image(draw_grid(lines), "png"))
    return path


def read_originals(store: LatentStore, rows: list[int]) -> dict[int, np.ndarray]:
    """What the encoder saw of these rows, [h, w, 3], uint8; without those whose file is gone or has other bytes."""
    view = store.spec.views[store.view]
    with TemporaryDirectory() as scratch:
        try:
            source = load_source(store.folder.fetch(index_folder(store.spec), Path(scratch)))
        except SourceError:
            return {}
        images, hashes, failures = load_rows(source, rows, view.size, store.spec.transform.resize)
    images = images.flip(-1) if view.flip else images
    pictures, same = images.permute(0, 2, 3, 1).numpy(), hashes == store.content_hash(rows)
    return {row: pictures[slot] for slot, row in enumerate(rows) if same[slot] and row not in failures}
