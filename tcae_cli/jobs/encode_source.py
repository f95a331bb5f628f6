"""Scans the source of a store anew, and compares it with the source that the store's rows came from."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tcae_cli.errors import SourceError, StoreError
from tcae_cli.images.buckets import rows_of_stores
from tcae_cli.images.measure import add_image_sizes
from tcae_cli.jobs.class_list import given_class_names
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime.folder import Folder
from tcae_cli.sources.announce import found_so_far, say_found
from tcae_cli.sources.index import SUMMARY_FILE, fetch_index
from tcae_cli.sources.index_apart import index_source_apart
from tcae_cli.sources.index_update import PreviousIndex
from tcae_cli.sources.merged_rows import SourceChanges
from tcae_cli.sources.source import Source
from tcae_cli.store.buckets import existing_stores
from tcae_cli.store.commit import rows_without_latents
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import index_folder


def open_store_source(request: EncodeRequest, store: StoreHandle | None, scratch: Path, progress: Progress) -> Source:
    """Return the source with a new index, in which rows the store has already keep their numbers.

    store: None where there is none yet. Raises StoreError if its rows are not the source's: with --append, only if
    some of its source is another one altogether. With --retry-failed, images without latents may have changed.
    """
    previous = fetch_index(store.folder, index_folder(store.spec), scratch) if store else None
    index = scratch / "index"
    retried = _rows_to_retry(store, previous) if store and request.retry_failed else ()
    classes = given_class_names(request, store)
    changes = index_source_apart(
        request.source,
        index,
        PreviousIndex(previous, request.append, retried) if previous else None,
        replace(request.fields, classes=classes or None),
        found_so_far(request.source, progress),
    )
    source = Source(index)
    if source.disagreements and (not previous or changes.num_new):  # rows that are known keep what they have
        raise SourceError(source.disagreements[0])
    say_found(source, progress)
    if request.buckets:
        add_image_sizes(source, Source(previous) if previous else None, request.num_workers, progress)
        source = Source(index)
    if store:
        _refuse_other_images(request, store, source, changes if previous else None)
        if words := change_words(changes):
            progress.say(f"{request.source}, against {store.folder.uri}: {words}")
        if changes.num_new and source.has_captions and not store.spec.has_captions:
            progress.say(
                f"{store.folder.uri} was made without captions, and those of new images are not stored; "
                f"tcae encode-dataset --update-metadata adds all of them"
            )
        if changes.num_described:
            progress.say(f"{outdated_words(request.source, changes)}; the rows keep those of the store")
    if changes.num_changed or changes.num_vanished:
        progress.say("rows of changed and vanished images stay as they were encoded")
    return source


def _rows_to_retry(store: StoreHandle, index: Path | None) -> list[int]:
    """Return the rows of a store's source that have no latents; index: of that source."""
    if store.spec.buckets is None:
        return rows_without_latents(store)
    if index is None:
        return []
    samples = rows_of_stores(Source(index), store.spec)
    buckets = existing_stores(store).items()
    return sorted(int(samples[name][row]) for name, bucket in buckets for row in rows_without_latents(bucket))


def publish_index(folder: Folder, index: Path, name: str) -> None:
    """Put an index where the ranks look for it, unless the same is there."""
    (published,) = folder.read_many([f"{name}/{SUMMARY_FILE}"])
    if published == (index / SUMMARY_FILE).read_bytes():
        return
    # The summary is last: it says that all of the index has been written.
    for path in sorted(index.iterdir(), key=lambda path: path.name == SUMMARY_FILE):
        folder.put(path, f"{name}/{path.name}")


def _refuse_other_images(
    request: EncodeRequest, store: StoreHandle, source: Source, changes: SourceChanges | None
) -> None:
    """Raise StoreError unless the store's rows can be continued with this source.

    changes: since the store was made; None if the store has lost its index, so that only fingerprints can be compared.
    """
    was, uri = store.spec.source, store.folder.uri
    if changes is None:
        if source.fingerprint != was.fingerprint:
            raise StoreError(
                f"{uri} cannot be continued: its list of images, {index_folder(store.spec)}, is gone, and "
                f"{request.source} is not what it was made from (fingerprint {source.fingerprint[:12]}, not "
                f"{was.fingerprint[:12]}); name the source as it was then, or encode into another store"
            )
        return
    if request.append:
        if changes.num_vanished == was.count:
            raise StoreError(
                f"{request.source} holds none of the {changes.num_vanished:,} images {uri} was made from; "
                f"name the same source with more images in it, or encode into another store"
            )
        return
    if words := change_words(changes):
        raise StoreError(
            f"{uri} cannot be continued: it was made from {was.count:,} images (fingerprint "
            f"{was.fingerprint[:12]}), and {request.source} has {len(source):,} ({source.fingerprint[:12]}): "
            f"{words}; {', or '.join(_ways_out(request, changes))}"
        )


def _ways_out(request: EncodeRequest, changes: SourceChanges) -> list[str]:
    """Return what a user can do about a source that is not as it was."""
    ways = []
    if changes.num_changed or changes.num_vanished:
        ways.append("put them back as they were")
    if changes.num_changed and not request.retry_failed:
        ways.append("pass --retry-failed to encode those of the changed ones that had failed or are pending")
    if changes.num_new:
        ways.append("pass --append to add the new ones as rows")
    return [*ways, "encode into another store"]


def outdated_words(source: str, changes: SourceChanges) -> str:
    """Return a sentence on the rows that have another label or caption than when they were encoded, and the way out."""
    return (
        f"{source}: {changes.num_described:,} images have another label or caption than in the store "
        f"({_listed(changes.num_described, changes.described)}); "
        f"tcae encode-dataset --update-metadata brings them up to date without encoding"
    )


def _listed(count: int, names: Sequence[str]) -> str:
    """Return the names of the first of so many things."""
    return ", ".join(names) + (", ..." if count > len(names) else "")


def change_words(changes: SourceChanges) -> str:
    """Return the differences of the source in words; "" if there are none."""
    kinds = (
        (changes.num_new, "new", changes.new),
        (changes.num_changed, "changed", changes.changed),
        (changes.num_vanished, "vanished", changes.vanished),
    )
    return "; ".join(f"{count:,} {kind} ({_listed(count, names)})" for count, kind, names in kinds if count)
