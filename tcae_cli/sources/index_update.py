"""The index of a source that may have been indexed before: rows stay where they are, new ones come after them."""

import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path

from tcae_cli.errors import SourceError, TcaeError
from tcae_cli.runtime.processes import leave_with_the_parent
from tcae_cli.sources.index import Entry, Listing, ignore, write_index
from tcae_cli.sources.source import load_source, scan

_NAMES_SHOWN = 10
_HEARD_EVERY_S = 0.2
_CHANGED = "has changed or moved in its tar since it was first listed"
_VANISHED = "is no longer in its tar"


@dataclass(frozen=True)
class SourceChanges:
    """How a source differs from its index: counts, and the first names of each kind."""

    num_new: int = 0
    num_changed: int = 0
    num_vanished: int = 0
    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)  # "key (1,234 bytes, was 1,200)"
    vanished: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.num_new or self.num_changed or self.num_vanished)


def index_source(
    uri: str,
    index_dir: Path,
    previous: Path | None = None,
    *,
    append: bool = False,
    retried: Collection[int] = (),
    heard: Callable[[int], None] = ignore,
) -> SourceChanges:
    """Scan a source, write its index into `index_dir`, and tell how it differs from the index in `previous`.

    Rows of the previous index keep their numbers, by key, size and place in a tar. With append, new ones come after
    them, new classes too, and what changed or vanished keeps its old entry; without, what differs gives the index of
    the plain scan, for the caller to refuse. Without a previous index nothing counts as new.
    retried: rows of the previous index that are to be read anew; these may change, and that does not count.
    heard: told now and then how many were found.
    Raises SourceError if the previous index is of another version, and what scan raises.
    """
    listing = scan(uri, heard)
    changes = SourceChanges()
    if previous is not None:
        old = load_source(previous)
        merged, changes = _merge(list(old.entries()), old.class_names, listing, frozenset(retried))
        listing = merged if append or not changes else listing
    write_index(index_dir, listing)
    return changes


def index_source_apart(
    uri: str,
    index_dir: Path,
    previous: Path | None = None,
    *,
    append: bool = False,
    retried: Collection[int] = (),
    progress: Callable[[int], None] = ignore,
) -> SourceChanges:
    """index_source in a process of its own: what a scan of millions takes of memory is given back after it.

    progress: called here now and then with the number found so far. The process ends with this one, and on Ctrl-C.
    Raises what index_source raises, SourceError if the process is killed.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    request = (uri, index_dir, previous, append, retried)
    process = context.Process(target=_index_and_tell, args=(sender, *request), daemon=True)
    try:
        with _deaf_to_ctrl_c():
            process.start()
        sender.close()
        while isinstance(message := receiver.recv(), int):
            progress(message)
    except EOFError as error:
        process.join()
        raise SourceError(
            f"{uri}: the process that lists its images ended unexpectedly (exit code {process.exitcode}), "
            f"perhaps for lack of memory; repeat the command"
        ) from error
    finally:
        if process.pid:
            process.kill()
            process.join()
        receiver.close()
    if isinstance(message, TcaeError):
        raise message
    assert isinstance(message, SourceChanges)
    return message


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Holds Ctrl-C back here, and for good in processes that start meanwhile: they leave it to their parent."""
    resource_tracker.ensure_running()  # lets Ctrl-C through again when it starts
    heard: list[int] = []
    # The mask is for the new process alone: here a thread of numpy's without it would take the signal.
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: heard.append(number)) if in_main_thread else None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
    if heard:
        signal.raise_signal(signal.SIGINT)


def _index_and_tell(
    sender: Connection, uri: str, index_dir: Path, previous: Path | None, append: bool, retried: Collection[int]
) -> None:
    """What the process does: says how many it found, then what came out."""
    threading.Thread(target=leave_with_the_parent, daemon=True).start()
    told_at = -_HEARD_EVERY_S

    def tell(number: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at > _HEARD_EVERY_S:
            told_at = time.monotonic()
            sender.send(number)

    try:
        sender.send(index_source(uri, index_dir, previous, append=append, retried=retried, heard=tell))
    except TcaeError as error:
        sender.send(error)


def _merge(
    old_entries: list[Entry], old_classes: tuple[str, ...], listing: Listing, retried: Collection[int]
) -> tuple[Listing, SourceChanges]:
    """The rows of an old index as they are now, then the new ones; and what differs."""
    class_names = tuple(dict.fromkeys((*old_classes, *listing.class_names)))
    listing = replace(listing, entries=_renumbered(listing, class_names), class_names=class_names)
    found = {entry.key: entry for entry in listing.entries}
    entries: list[Entry] = []
    changed: list[str] = []
    vanished: list[str] = []
    for row, old in enumerate(old_entries):
        now = found.pop(old.key, None)
        if now is None:
            vanished.append(_shown(old.key))
            entries.append(_out_of_reach(old, _VANISHED))
        elif (now.size_bytes, now.offset) != (old.size_bytes, old.offset) and row not in retried:
            changed.append(_difference(old, now))
            entries.append(_out_of_reach(old, _CHANGED))
        else:
            entries.append(now)
    changes = SourceChanges(
        num_new=len(found),
        num_changed=len(changed),
        num_vanished=len(vanished),
        new=[_shown(key) for key in list(found)[:_NAMES_SHOWN]],
        changed=changed[:_NAMES_SHOWN],
        vanished=vanished[:_NAMES_SHOWN],
    )
    return replace(listing, entries=[*entries, *found.values()]), changes


def _renumbered(listing: Listing, class_names: tuple[str, ...]) -> Sequence[Entry]:
    """The entries with their labels by other class names, of which theirs are some."""
    if listing.class_names == class_names:
        return listing.entries
    numbers = {name: label for label, name in enumerate(class_names)}
    labels = [numbers[name] for name in listing.class_names]
    return [entry._replace(label=labels[entry.label]) if entry.label >= 0 else entry for entry in listing.entries]


def _out_of_reach(entry: Entry, problem: str) -> Entry:
    """An old entry as it was; if it was in a tar it fails when read, for other bytes lie at its place now."""
    return entry if entry.offset < 0 else entry._replace(tar=-1, problem=problem)


def _difference(old: Entry, now: Entry) -> str:
    if now.size_bytes == old.size_bytes:
        return f"{_shown(now.key)} (moved in its tar)"
    return f"{_shown(now.key)} ({now.size_bytes:,} bytes, was {old.size_bytes:,})"


def _shown(key: str) -> str:
    return os.fsencode(key).decode(errors="backslashreplace")
