"""`tcae encode-dataset --update-metadata`: gives a store the labels and captions that its source has now."""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tcae_cli.errors import ImageError, SourceError, StoreError, UsageError
from tcae_cli.images.batch import content_hash
from tcae_cli.images.buckets import rows_of_stores
from tcae_cli.images.measure import add_image_sizes
from tcae_cli.jobs.class_list import given_class_names
from tcae_cli.jobs.encode_settings import identity_of
from tcae_cli.jobs.encode_source import change_words, publish_index
from tcae_cli.reports.encode import EncodeRequest, UpdateReport
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime import distributed
from tcae_cli.runtime.folder import open_folder
from tcae_cli.sources.announce import found_so_far, say_found
from tcae_cli.sources.index import fetch_index
from tcae_cli.sources.index_apart import index_source_apart
from tcae_cli.sources.index_update import PreviousIndex
from tcae_cli.sources.merged_rows import SourceChanges
from tcae_cli.sources.source import Source
from tcae_cli.store.buckets import complete_update, existing_stores, refuse_a_bucket, update_metadata
from tcae_cli.store.commit import clear_leftovers, remove_old_indexes
from tcae_cli.store.handle import StoreHandle, find_store, fit_arrays
from tcae_cli.store.layout import index_folder, read_side_array
from tcae_cli.store.lease import Place, join_store
from tcae_cli.store.spec import OK
from tcae_cli.store.update import Described, find_outdated, updated_spec

_BATCH_ROWS = 64


def update_store(request: EncodeRequest, progress: Progress) -> UpdateReport:
    """Bring the labels and captions of a store up to date with its source; no image is encoded.

    Raises StoreError if there is no store, another process works on it, it has lost the list of its images, or the
    source is another one; and the errors of scanning the source. Either all labels and captions change or none.
    """
    if distributed.world_size() > 1:
        raise UsageError("--update-metadata is the work of one process; run it by itself, without a launcher")
    folder = open_folder(request.store)
    found = find_store(folder)
    if found is None:
        raise StoreError(f"{request.store} does not exist; omit --update-metadata to encode it")
    refuse_a_bucket(folder)
    with join_store(folder, Place(distributed.launch_id())) as lease, TemporaryDirectory() as scratch:
        store = StoreHandle(folder)
        complete_update(store)
        stores = existing_stores(store)
        for each in (store, *stores.values()):
            clear_leftovers(each.folder, lease.live_owners)
            fit_arrays(each)
        source, changes = _index(request, store, Path(scratch), progress)
        described = _described(store, source)
        _refuse_other_bytes(store, source, changes.moved, progress)

        identity = identity_of(source)
        outdated = [find_outdated(each, described[name]) for name, each in stores.items()]
        num_labels, num_captions = (sum(counts) for counts in zip(*outdated, strict=True))
        is_outdated = bool(
            num_labels
            or num_captions
            or changes.num_described
            or changes.moved
            or identity.class_names != store.spec.source.class_names
        )
        if is_outdated:
            new = updated_spec(store, identity, source, classes_given=request.classes is not None)
            publish_index(folder, source.index_dir, index_folder(new))
            update_metadata(store, new, described, lease.check)
            remove_old_indexes(store)
    return UpdateReport(
        store=request.store,
        num_rows=len(source),
        num_labels=num_labels,
        num_captions=num_captions,
        num_classes=len(source.class_names),
        updated=is_outdated,
        num_new=changes.num_new,
    )


@dataclass(frozen=True)
class _RowsOfBucket:
    """The rows of a bucket with the labels and captions of their samples."""

    source: Source
    samples: np.ndarray  # of each row
    numbers: np.ndarray  # the label of each row

    @property
    def has_captions(self) -> bool:
        return self.source.has_captions

    def labels(self, start: int, stop: int) -> np.ndarray:
        return self.numbers[start:stop]

    def caption(self, row: int) -> str:
        return self.source.caption(int(self.samples[row]))


def _described(store: StoreHandle, source: Source) -> dict[str, Described]:
    """Return the rows of a store, or of each of its buckets, by name."""
    if store.spec.buckets is None:
        return {"": source}
    labels = source.labels(0, len(source))
    samples = {name: np.array(rows) for name, rows in rows_of_stores(source, store.spec).items()}
    return {name: _RowsOfBucket(source, rows, labels[rows]) for name, rows in samples.items()}


def _index(
    request: EncodeRequest, store: StoreHandle, scratch: Path, progress: Progress
) -> tuple[Source, SourceChanges]:
    """Return the rows of the store as the source describes them now, and how the source differs from its index."""
    previous = fetch_index(store.folder, index_folder(store.spec), scratch)
    if previous is None:
        raise StoreError(
            f"{store.folder.uri} has lost {index_folder(store.spec)}, the list of its images; "
            f"repeat tcae encode-dataset without --update-metadata, which writes it again"
        )
    changes = index_source_apart(
        request.source,
        scratch / "index",
        PreviousIndex(previous, redescribe=True),
        replace(request.fields, classes=given_class_names(request, store) or None),
        found_so_far(request.source, progress),
    )
    if store.spec.buckets:
        add_image_sizes(Source(scratch / "index"), Source(previous), request.num_workers, progress)
    source = Source(scratch / "index")
    if source.disagreements:
        raise SourceError(source.disagreements[0])
    say_found(source, progress)
    if changes.num_vanished == len(source):
        raise StoreError(
            f"{request.source} holds none of the {len(source):,} images {store.folder.uri} was made from; "
            f"name the source it was made from"
        )
    if words := change_words(changes):
        progress.say(f"{request.source}, against {store.folder.uri}: {words}")
    if changes.num_changed or changes.num_vanished:
        progress.say("rows of changed and vanished images keep their labels and captions")
    return source, changes


def _refuse_other_bytes(store: StoreHandle, source: Source, moved: list[int], progress: Progress) -> None:
    """Raise StoreError unless images that were found at another place of a file are those that were encoded."""
    if not moved:
        return
    status, hashes = np.zeros(len(source), np.uint8), np.zeros(len(source), np.uint64)  # of samples
    samples = rows_of_stores(source, store.spec)
    for name, each in existing_stores(store).items():
        for array, values in (("status", status), ("content_hash", hashes)):
            found = read_side_array(each.folder, each.spec, array, each.is_complete)
            values[list(samples[name][: len(found)])] = found
    rows = [row for row in moved if status[row] == OK]
    others: list[str] = []
    progress.start("compare images that have moved", len(rows))
    for start in range(0, len(rows), _BATCH_ROWS):
        batch = rows[start : start + _BATCH_ROWS]
        for row, data in zip(batch, source.read_many(batch), strict=True):
            if isinstance(data, ImageError) or content_hash(data) != hashes[row]:
                others.append(source.key(row))
        progress.advance(len(batch))
    if others:
        raise StoreError(
            f"{source.uri}: {len(others):,} images have other bytes than when they were encoded (the first is "
            f"{others[0]}); put them back, or encode into another store"
        )
