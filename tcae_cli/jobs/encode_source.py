"""The source of a store: scanned anew, and held against what the store's rows are."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tcae_cli.errors import StoreError
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime.folder import Folder
from tcae_cli.sources.index import SUMMARY_FILE
from tcae_cli.sources.index_update import PreviousIndex, SourceChanges, index_source_apart
from tcae_cli.sources.source import Source, load_source
from tcae_cli.store.commit import failed_rows
from tcae_cli.store.layout import index_folder
from tcae_cli.store.spec import StoreSpec

_TELL_EVERY_S = 5.0


def open_store_source(
    request: EncodeRequest, folder: Folder, found: StoreSpec | None, scratch: Path, progress: Progress
) -> Path:
    """The folder of a new index, in which rows the store has already keep their numbers.

    found: what is in `folder`, None where there is no store yet. Raises StoreError if the store's rows are not the
    source's: with --append, only if some of the store's source is another one altogether. With --retry-failed, images
    that failed before may have changed.
    """
    previous = None
    if found and f"{index_folder(found)}/{SUMMARY_FILE}" in folder.sizes(index_folder(found)):
        previous = folder.fetch(index_folder(found), scratch)
    index = scratch / "index"
    retried = failed_rows(folder) if found and request.retry_failed else ()
    changes = index_source_apart(
        request.source,
        index,
        PreviousIndex(previous, request.append, retried) if previous else None,
        on_progress=_now_and_then(lambda count: progress.say(f"{request.source}: {count:,} images found so far")),
    )
    now = load_source(index).fingerprint
    if found and not previous and now != found.source.fingerprint:
        raise StoreError(
            f"{folder.uri} cannot be continued: its list of images, {index_folder(found)}, is gone, and "
            f"{request.source} is not what it was made from (fingerprint {now[:12]}, not "
            f"{found.source.fingerprint[:12]}); name the source as it was then, or encode into another store"
        )
    if found and previous and not request.append and _words(changes):
        raise StoreError(_cannot_continue(request, folder, found, changes, load_source(index)))
    if request.append and changes.num_vanished == (found.source.count if found else -1):
        raise StoreError(
            f"{request.source} holds none of the {changes.num_vanished:,} images {folder.uri} was made from; "
            f"name the same source with more images in it, or encode into another store"
        )
    if found and _words(changes):
        progress.say(f"{request.source}, against {folder.uri}: {_words(changes)}")
    if changes.num_changed or changes.num_vanished:
        progress.say("rows of changed and vanished images stay as they were encoded")
    return index


def publish_index(folder: Folder, index: Path, name: str) -> None:
    """Put an index where the ranks look for it, unless the same is there."""
    (there,) = folder.read_many([f"{name}/{SUMMARY_FILE}"])
    if there == (index / SUMMARY_FILE).read_bytes():
        return
    for path in sorted(index.iterdir(), key=lambda path: path.name == SUMMARY_FILE):  # last: it says that all is there
        folder.put(path, f"{name}/{path.name}")


def _cannot_continue(
    request: EncodeRequest, folder: Folder, found: StoreSpec, changes: SourceChanges, source: Source
) -> str:
    ways = ["encode into another store"]
    if changes.num_new:
        ways.insert(0, "pass --append to add the new ones as rows")
    if changes.num_changed or changes.num_vanished:
        ways.insert(0, "put them back as they were")
    if changes.num_changed and not request.retry_failed:
        ways.insert(1, "pass --retry-failed to encode those of the changed ones that had failed")
    return (
        f"{folder.uri} cannot be continued: it was made from {found.source.count:,} images (fingerprint "
        f"{found.source.fingerprint[:12]}), and {request.source} has {len(source):,} ({source.fingerprint[:12]}): "
        f"{_words(changes)}; {', or '.join(ways)}"
    )


def _words(changes: SourceChanges) -> str:
    """What is not as it was, in words; "" if all is."""
    kinds = (
        (changes.num_new, "new", changes.new),
        (changes.num_changed, "changed", changes.changed),
        (changes.num_vanished, "vanished", changes.vanished),
    )
    return "; ".join(f"{count:,} {kind} ({_some(names, count)})" for count, kind, names in kinds if count)


def _now_and_then(tell: Callable[[int], None]) -> Callable[[int], None]:
    """Passes on what it is told, at most every few seconds: most sources are looked through in less."""
    told_at = time.monotonic()

    def hear(count: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at > _TELL_EVERY_S:
            told_at = time.monotonic()
            tell(count)

    return hear


def _some(names: Sequence[str], count: int) -> str:
    return ", ".join(names) + (", ..." if count > len(names) else "")
