"""`tcae decode`: writes a store's latents back to images, and draws originals above their reconstructions."""

import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch

from tcae_cli.autoencoders.by_name import read_card
from tcae_cli.autoencoders.runner import Runner, load_runner
from tcae_cli.errors import SourceError, StoreError, UsageError
from tcae_cli.images.buckets import rows_of_stores, transforms_of_stores
from tcae_cli.images.file_names import file_name
from tcae_cli.images.image_file import encode_image
from tcae_cli.images.loader import load_rows
from tcae_cli.images.partition import shards_of_rank
from tcae_cli.images.pictures import to_pixels, write_pairs
from tcae_cli.jobs.scanned_folders import scanned_folders, source_around
from tcae_cli.recipe.choices import ImageFormat
from tcae_cli.reports.decode import DecodeReport, DecodeRequest
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import choose_device, default_precision
from tcae_cli.runtime.files import make_folder, write_atomic
from tcae_cli.runtime.folder import open_pinned
from tcae_cli.sources.source import open_index
from tcae_cli.store.buckets import whole_of
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import bucket_folder, index_folder
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.samples import open_stores
from tcae_cli.store.spec import OK

_BATCH_PIXELS = 32 * 256**2  # SD's decoder takes some 270 MB for each 256 x 256


def decode_store(request: DecodeRequest, progress: Progress) -> DecodeReport:
    """Write each ok row as an image file named after its key; existing files are kept and counted.

    Each rank of a launch writes its own share of them, and rank 0 draws the grid. The rows of a store of buckets are
    written in their own shapes. Raises StoreError if the model's encoder is not the one that made the latents, unless
    request.force, and UsageError for rows of a store of buckets, whose numbers are those of each bucket.
    """
    started = time.perf_counter()
    root = StoreHandle(open_pinned(request.store))
    if root.spec.buckets and request.rows:
        bucket = f"{request.store}/{bucket_folder(root.spec.buckets.names[0])}"
        raise UsageError(f"--rows {request.rows}: rows are numbered within each bucket; name one, such as {bucket}")
    stores = open_stores(root, request.view)
    runner = _load_decoder(request, stores[0])
    chosen = [_rows_of(store, request.rows) for store in stores]
    ok = [(store, row) for store, rows in zip(stores, chosen, strict=True) for row in rows.ok]
    mine = shards_of_rank(ok, distributed.rank(), distributed.world_size(), side_by_side=True)

    if source := source_around(request.out_dir, scanned_folders(root.folder, root.spec)):
        progress.say(f"{request.out_dir} lies in {source}, whose next scan will find the decoded images too")
    make_folder(request.out_dir)
    num_written = _write_images(request, runner, mine, progress)

    has_grid = request.grid and ok and distributed.rank() == 0
    return DecodeReport(
        out_dir=request.out_dir,
        num_written=num_written,
        num_skipped_existing=len(mine) - num_written,
        num_not_ok=sum(rows.num_not_ok for rows in chosen),
        grid=_draw_grid(request, runner, whole_of(root.folder) or root, ok, progress) if has_grid else None,
        elapsed_s=time.perf_counter() - started,
    )


class _Rows(NamedTuple):
    """The rows of a store that are asked for."""

    ok: list[int]
    num_not_ok: int


def _rows_of(store: LatentStore, text: str | None) -> _Rows:
    chosen = range(len(store))[parse_rows(text)]
    status = store.status()
    ok = [row for row in chosen if status[row] == OK]
    return _Rows(ok, len(chosen) - len(ok))


def _write_images(
    request: DecodeRequest, runner: Runner, rows: Sequence[tuple[LatentStore, int]], progress: Progress
) -> int:
    """Write the images of these rows that are not there yet, and return how many."""
    todo: dict[LatentStore, dict[int, Path]] = {}  # the file of each row
    for store, of_store in groupby(rows, key=itemgetter(0)):
        numbers = [row for _, row in of_store]
        names = (f"{file_name(key)}.{request.format}" for key in store.keys(numbers))
        files = zip(numbers, map(request.out_dir.joinpath, names), strict=True)
        todo[store] = {row: path for row, path in files if not path.exists()}
    num_written = sum(map(len, todo.values()))
    progress.start("decode", len(rows), done=len(rows) - num_written)
    with ThreadPoolExecutor() as writers:
        for store, paths_of in todo.items():
            for decoded, images in _decode_rows(runner, store, list(paths_of)):
                paths = (paths_of[row] for row in decoded)
                for _ in writers.map(_write, paths, images, [request.format] * len(decoded)):
                    progress.advance()
    return num_written


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


def read_originals(store: LatentStore, rows: list[int], root: StoreHandle | None = None) -> dict[int, np.ndarray]:
    """Return the images of these rows as the encoder saw them, each [h, w, 3], uint8, by row.

    root: the store that `store` is a bucket of, if it is one, which lists its images. Rows whose file is missing or has
    other bytes than when it was encoded are omitted.
    """
    view = store.spec.views[store.view]
    folder, spec = (store.folder, store.spec) if root is None else (root.folder, root.spec)
    bucket = store.folder.uri.rstrip("/").rpartition("/")[2] if spec.buckets else ""
    with TemporaryDirectory() as scratch:
        try:
            source = open_index(folder, index_folder(spec), Path(scratch))
            samples = rows_of_stores(source, spec)[bucket]
            of_rows = [samples[row] for row in rows]
            images, hashes, failures = load_rows(source, of_rows, transforms_of_stores(spec)[bucket])
        except SourceError:  # a file that holds many of them may be missing
            return {}
    of_view = images[store.spec.sizes.index(view.size)]
    pixels = to_pixels(of_view.flip(-1) if view.flip else of_view)
    is_same = hashes == store.content_hash(rows)
    return {row: pixels[slot] for slot, row in enumerate(rows) if is_same[slot] and of_rows[slot] not in failures}


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
    _, height, width = store.sample_shape
    batch_size = max(1, _BATCH_PIXELS // (height * width * store.spec.latent.downsampling**2))
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        latents = torch.from_numpy(store.latents(batch)).float()
        yield batch, to_pixels(runner.decode(latents))


def _write(path: Path, pixels: np.ndarray, image_format: ImageFormat) -> None:
    make_folder(path.parent)
    write_atomic(path, encode_image(pixels, image_format))


def _draw_grid(
    request: DecodeRequest, runner: Runner, root: StoreHandle, ok: Sequence[tuple[LatentStore, int]], progress: Progress
) -> Path:
    """Draw rows spread evenly over the ok ones, and return the picture's path in OUT_DIR."""
    count = min(request.grid, len(ok))
    chosen = [ok[place * len(ok) // count] for place in range(count)]
    decoded: list[np.ndarray] = []
    originals: list[np.ndarray] = []
    num_missing = 0
    for store, of_store in groupby(chosen, key=itemgetter(0)):
        rows = [row for _, row in of_store]
        pictures = [image for _, images in _decode_rows(runner, store, rows) for image in images]
        found = read_originals(store, rows, root)
        num_missing += len(rows) - len(found)
        decoded += pictures
        originals += [found.get(row, np.full_like(picture, 255)) for row, picture in zip(rows, pictures, strict=True)]
    if num_missing:
        progress.say(f"{num_missing} originals have changed or are missing; the picture leaves them blank")
    return write_pairs(request.out_dir / "grid.png", originals, decoded)
