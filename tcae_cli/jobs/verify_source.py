"""The images of a store as they are now: which are new, which have changed or are gone, down to their bytes."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tcae_cli.errors import ImageError
from tcae_cli.images.batch import content_hash
from tcae_cli.jobs.pipeline import Stage, run_pipeline
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime.folder import Folder
from tcae_cli.sources.index import SUMMARY_FILE
from tcae_cli.sources.index_update import index_source_apart
from tcae_cli.sources.source import Source, load_source
from tcae_cli.store.layout import index_folder, read_spec

_BATCH_ROWS = 64


def open_compared_source(
    uri: str, folder: Folder, scratch: Path, add: Callable[[str], None], progress: Progress
) -> Source | None:
    """The source at `uri` in the rows of the store, what differs told to `add`; None if its rows are not known.

    Raises NotFoundError if nothing is at `uri`, SourceError if it cannot be used.
    """
    spec = read_spec(folder)
    name, previous = index_folder(spec), None
    if f"{name}/{SUMMARY_FILE}" in folder.sizes(name):
        previous = folder.fetch(name, scratch)
    changes = index_source_apart(
        uri,
        scratch / "index",
        previous,
        append=True,
        progress=lambda count: progress.say(f"looking through {uri}: {count:,} images so far"),
    )
    source = load_source(scratch / "index")
    if previous is None and source.fingerprint != spec.source.fingerprint:
        add(
            f"{uri} holds other images than the {spec.source.count:,} the store was made from (fingerprint "
            f"{source.fingerprint[:12]}, not {spec.source.fingerprint[:12]}), and {name}, which lists those, is missing"
        )
        return None
    for count, names, words in (
        (changes.num_new, changes.new, "new: the store does not hold them; tcae encode-dataset --append adds them"),
        (changes.num_changed, changes.changed, "changed since they were encoded: put them back, or encode a new store"),
        (changes.num_vanished, changes.vanished, "vanished: put them back, or encode a new store"),
    ):
        if count:
            add(f"{uri}: {count:,} {words} ({', '.join(names)}{', ...' if count > len(names) else ''})")
    return source


def compare_source(
    source: Source, rows: np.ndarray, hashes: np.ndarray, add: Callable[[str], None], progress: Progress
) -> int:
    """Read the images of these rows, [k], and tell `add` whose bytes are others; returns how many could be read.

    hashes: of the bytes when they were encoded, [k], uint64. Images that the scan has named are not named again.
    """
    progress.start("compare with the source", len(rows))
    batches = [slice(start, start + _BATCH_ROWS) for start in range(0, len(rows), _BATCH_ROWS)]
    counted = _Counted()
    take = partial(_take, source=source, counted=counted, add=add, progress=progress)
    compare = partial(_read, source, rows, hashes)
    run_pipeline(batches, [Stage(compare, len(os.sched_getaffinity(0)))], take)
    return counted.num_read


@dataclass
class _Counted:
    num_read: int = 0


@dataclass(frozen=True)
class _Image:
    """One row's image as it is now."""

    row: int
    is_same: bool
    num_bytes: int
    error: ImageError | None


def _read(source: Source, rows: np.ndarray, hashes: np.ndarray, batch: slice) -> list[_Image]:
    chosen: Sequence[int] = rows[batch].tolist()
    images = []
    for row, wanted, data in zip(chosen, hashes[batch].tolist(), source.read_many(chosen), strict=True):
        if isinstance(data, ImageError):
            images.append(_Image(row, False, 0, data))
        else:
            images.append(_Image(row, content_hash(data) == wanted, len(data), None))
    return images


def _take(
    images: list[_Image], *, source: Source, counted: _Counted, add: Callable[[str], None], progress: Progress
) -> None:
    for image in images:
        counted.num_read += image.error is None
        if image.is_same:
            continue
        where = f"{source.key(image.row)} (row {image.row})"
        if image.error is not None:
            # Of those the scan has named there is nothing to read.
            if image.error.stage != "index" and not isinstance(image.error.__cause__, FileNotFoundError):
                add(f"{where} cannot be read: {image.error}")
        elif source.size_bytes(image.row) in (0, image.num_bytes):  # 0: not known
            add(f"{where} has other bytes than when it was encoded, though as many ({image.num_bytes:,})")
    progress.advance(len(images), failed=sum(not image.is_same for image in images))
