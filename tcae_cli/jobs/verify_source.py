"""Compares the images of a store with what they are now: finds new, changed and missing ones, down to their bytes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from tcae_cli.errors import ImageError
from tcae_cli.images.batch import content_hash
from tcae_cli.jobs.encode_source import outdated_words
from tcae_cli.jobs.pipeline import Stage, run_pipeline
from tcae_cli.jobs.verification import Verification
from tcae_cli.sources.announce import found_so_far, say_found
from tcae_cli.sources.index import fetch_index
from tcae_cli.sources.index_apart import index_source_apart
from tcae_cli.sources.index_update import PreviousIndex
from tcae_cli.sources.source import Source
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import index_folder

_BATCH_ROWS = 64


def open_compared_source(verification: Verification, store: StoreHandle, uri: str, scratch: Path) -> Source | None:
    """Open the source at `uri` in the rows of the store; how it differs is a problem. None if its rows are not known.

    Raises NotFoundError if nothing is at `uri`, SourceError if it cannot be used.
    """
    spec = store.spec
    previous = fetch_index(store.folder, index_folder(store.spec), scratch)
    changes = index_source_apart(
        uri,
        scratch / "index",
        PreviousIndex(previous, append=True) if previous else None,
        replace(verification.request.fields, classes=tuple(spec.source.class_names) if spec.classes_given else None),
        found_so_far(uri, verification.progress),
    )
    source = Source(scratch / "index")
    say_found(source, verification.progress)
    if previous is None and source.fingerprint != spec.source.fingerprint:
        verification.add_problem(
            f"{uri} holds other images than the {spec.source.count:,} the store was made from (fingerprint "
            f"{source.fingerprint[:12]}, not {spec.source.fingerprint[:12]}), and {index_folder(spec)}, which lists "
            f"those, is missing"
        )
        return None
    for count, names, words in (
        (changes.num_new, changes.new, "new: the store does not hold them; tcae encode-dataset --append adds them"),
        (changes.num_changed, changes.changed, "changed since they were encoded: put them back, or encode a new store"),
        (changes.num_vanished, changes.vanished, "vanished: put them back, or encode a new store"),
    ):
        if count:
            more = ", ..." if count > len(names) else ""
            verification.add_problem(f"{uri}: {count:,} {words} ({', '.join(names)}{more})")
    if changes.num_described:
        verification.add_problem(outdated_words(uri, changes))
    return source


def compare_source(verification: Verification, source: Source, rows: np.ndarray, hashes: np.ndarray) -> int:
    """Read the images of these rows, [k], and return how many could be read; one with other bytes is a problem.

    hashes: of the bytes when they were encoded, [k], uint64. Images that the scan has named are not named again.
    """
    num_read = 0

    def take(images: list[_Image]) -> None:
        nonlocal num_read
        num_read += sum(image.error is None for image in images)
        for image in images:
            if problem := _problem(source, image):
                verification.add_problem(problem)
        verification.progress.advance(len(images), failed=sum(not image.is_same for image in images))

    verification.progress.start("compare with the source", len(rows))
    batches = [slice(start, start + _BATCH_ROWS) for start in range(0, len(rows), _BATCH_ROWS)]
    read = partial(_read, source, rows, hashes)
    num_threads = len(os.sched_getaffinity(0)) if source.access == "row" else 1
    run_pipeline(batches, [Stage(read, num_threads)], take)
    return num_read


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


def _problem(source: Source, image: _Image) -> str | None:
    """Return a sentence if the image is not as it was encoded and the scan cannot have named it."""
    if image.is_same:
        return None
    where = f"{source.key(image.row)} (row {image.row})"
    if image.error is not None:
        named = image.error.stage == "index" or isinstance(image.error.__cause__, FileNotFoundError)
        return None if named else f"{where} cannot be read: {image.error}"
    if source.size_bytes(image.row) in (0, image.num_bytes):  # 0: not known
        return f"{where} has other bytes than when it was encoded, though as many ({image.num_bytes:,})"
    return None
