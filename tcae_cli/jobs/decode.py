"""`tcae decode`: writes a store's latents back to images, and draws originals above their reconstructions."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from tcae_cli.autoencoders.by_name import read_card
from tcae_cli.autoencoders.runner import Runner, load_runner
from tcae_cli.errors import SourceError, StoreError, UsageError
from tcae_cli.images.file_names import file_name
from tcae_cli.images.image_file import encode_image
from tcae_cli.images.loader import load_rows
from tcae_cli.images.partition import shards_of_rank
from tcae_cli.images.pictures import to_pixels, write_pairs
from tcae_cli.images.transform import Transform
from tcae_cli.jobs.scanned_folders import scanned_folders, source_around
from tcae_cli.recipe.choices import ImageFormat
from tcae_cli.reports.decode import DecodeReport, DecodeRequest
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import choose_device, default_precision
from tcae_cli.runtime.files import make_folder, write_atomic
from tcae_cli.sources.source import open_index
from tcae_cli.store.layout import index_folder
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.spec import OK

_BATCH_PIXELS = 32 * 256**2  # SD's decoder takes some 270 MB for each 256 x 256


def decode_store(request: DecodeRequest, progress: Progress) -> DecodeReport:
    """Write each ok row as an image file named after its key; existing files are kept and counted.

    Each rank of a launch writes its own share of them, and rank 0 draws the grid. Raises StoreError if the model's
    encoder is not the one that made the latents, unless request.force.
    """
    started = time.perf_counter()
    store = LatentStore(request.store, request.view)
    runner = _load_decoder(request, store)
    chosen = range(len(store))[parse_rows(request.rows)]
    status = store.status()
    ok = [row for row in chosen if status[row] == OK]
    rank, world_size = distributed.rank(), distributed.world_size()
    mine = shards_of_rank(ok, rank, world_size, side_by_side=True)
    files = {
        row: request.out_dir / f"{file_name(key)}.{request.format}"
        for row, key in zip(mine, store.keys(mine), strict=True)
    }
    todo = [row for row in mine if not files[row].exists()]

    if source := source_around(request.out_dir, scanned_folders(store.folder, store.spec)):
        progress.say(f"{request.out_dir} lies in {source}, whose next scan will find the decoded images too")
    make_folder(request.out_dir)
    progress.start("decode", len(mine), done=len(mine) - len(todo))
    with ThreadPoolExecutor() as writers:
        for rows, images in _decode_rows(runner, store, todo):
            for _ in writers.map(_write, (files[row] for row in rows), images, [request.format] * len(rows)):
                progress.advance()

    has_grid = request.grid and ok and rank == 0
    return DecodeReport(
        out_dir=request.out_dir,
        num_written=len(todo),
        num_skipped_existing=len(mine) - len(todo),
        num_not_ok=len(chosen) - len(ok),
        grid=_draw_grid(request, runner, store, ok, progress) if has_grid else None,
        elapsed_s=time.perf_counter() - started,
    )


def parse_rows(text: str | None) -> slice:
    """Return the slice that "100", "0:100", "100:" or ":100" stands for. Raises UsageError for anything else."""
    if text is None:
        return slice(None)
    found = re.fullmatch(r"(\d+)|(\d*):(\d*)", text)
    if not found:
        raise UsageError(f"--rows {text} is not a row or a range of rows; write 7, 0:100, 100: or :100")
    if found[1]:
        return slice(int(found[1]), int(found[1]) + 1)
    return slice(*(int(bound) if bound else None for bound in found.group(2, 3)))


def read_originals(store: LatentStore, rows: list[int]) -> dict[int, np.ndarray]:
    """Return the images of these rows as the encoder saw them, each [h, w, 3], uint8, by row.

    Rows whose file is missing or has other bytes than when it was encoded are omitted.
    """
    view = store.spec.views[store.view]
    with TemporaryDirectory() as scratch:
        try:
            source = open_index(store.folder, index_folder(store.spec), Path(scratch))
            images, hashes, failures = load_rows(source, rows, Transform.of_store(store.spec))
        except SourceError:  # a file that holds many of them may be missing
            return {}
    of_view = images[store.spec.sizes.index(view.size)]
    pixels = to_pixels(of_view.flip(-1) if view.flip else of_view)
    is_same = hashes == store.content_hash(rows)
    return {row: pixels[slot] for slot, row in enumerate(rows) if is_same[slot] and row not in failures}


def _load_decoder(request: DecodeRequest, store: LatentStore) -> Runner:
    """Load the model that decodes. Raises StoreError if it does not fit the store."""
    name = request.model or store.spec.encoder.name
    card = read_card(name)
    card.refuse_without_decoder()
    latent = store.spec.latent
    if not request.force:
        store.refuse_other_encoder(
            card.encoder_hash, name, "pass --model with the first, or --force to decode all the same"
        )
    if card.latent_channels != latent.channels:
        raise StoreError(
            f"{request.store} holds latents of {latent.channels} channels, {name} decodes "
            f"{card.latent_channels}; pass another --model"
        )
    device = choose_device(request.device)
    return load_runner(name, device, request.precision or default_precision(device))


def _decode_rows(runner: Runner, store: LatentStore, rows: list[int]) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield batches of rows and their images, [k, h, w, 3], uint8."""
    batch_size = max(1, _BATCH_PIXELS // store.spec.views[store.view].size ** 2)
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        latents = torch.from_numpy(store.latents(batch)).float()
        yield batch, to_pixels(runner.decode(latents))


def _write(path: Path, pixels: np.ndarray, image_format: ImageFormat) -> None:
    make_folder(path.parent)
    write_atomic(path, encode_image(pixels, image_format))


def _draw_grid(request: DecodeRequest, runner: Runner, store: LatentStore, ok: list[int], progress: Progress) -> Path:
    """Draw rows spread evenly over the ok ones, and return the picture's path in OUT_DIR."""
    count = min(request.grid, len(ok))
    chosen = [ok[place * len(ok) // count] for place in range(count)]
    decoded = [image for _, images in _decode_rows(runner, store, chosen) for image in images]
    originals = read_originals(store, chosen)
    if len(originals) < count:
        progress.say(f"{count - len(originals)} originals have changed or are missing; the picture leaves them blank")
    blank = np.full_like(decoded[0], 255)
    return write_pairs(request.out_dir / "grid.png", [originals.get(row, blank) for row in chosen], decoded)
