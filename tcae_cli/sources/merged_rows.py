"""Walks the rows of a previous index beside a new listing, and keeps account of how they differ."""

from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from tcae_cli.reports.described import EARLIER
from tcae_cli.reports.failure import REPAIRED
from tcae_cli.sources.listing import Container, Entry, Listing
from tcae_cli.sources.locations import without_query
from tcae_cli.sources.source import Source
from tcae_cli.sources.spelling import shown

_NAMES_SHOWN = 10
_CHANGED = "has changed or moved in its file since it was first listed"
_VANISHED = "is no longer in its file"


@dataclass(frozen=True)
class SourceChanges:
    """The differences between a source and its index: counts, and the first names of each kind."""

    num_new: int = 0
    num_changed: int = 0
    num_vanished: int = 0
    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)  # "key (1,234 bytes, was 1,200)"
    vanished: list[str] = field(default_factory=list)
    num_described: int = 0  # rows with another label or caption, of images that are the same
    described: list[str] = field(default_factory=list)  # "key (label 3, was 2; another caption)"
    moved: list[int] = field(default_factory=list)  # rows that an index with new descriptions found at another place

    def __bool__(self) -> bool:
        return bool(self.num_new or self.num_changed or self.num_vanished)


class MergedRows:
    """The rows of a previous index, each with its entry in a new listing, and what becomes of them."""

    def __init__(self, previous: Source, listing: Listing) -> None:
        self._previous = previous
        self._listing = listing
        self._new = {entry.key: entry for entry in listing.entries}  # and the old ones, until the walk meets them
        self._place_before = _places(previous.containers)
        self._place_now = _places(listing.containers)
        self._tars_now = {without_query(listing.root, container.name) for container in listing.containers}
        self._lost = _LostPlaces(previous.containers, list(listing.containers))
        self._entries: list[Entry] = []
        self._changed: list[str] = []
        self._vanished: list[str] = []
        self._described: list[str] = []

    def __iter__(self) -> Iterator[tuple[int, Entry, Entry | None]]:
        """Yield each row with its old and its new entry, if any; each must be added before the next is asked for.

        A row that stands for a part of a tar that could not be read is added here if that part is gone: no image
        vanishes with it. Where the tar is still listed, it has been repaired.
        """
        for row, old in enumerate(self._previous.entries()):
            now = self._new.pop(old.key, None)
            if now is None and _stands_for_a_loss(old):
                is_repaired = old.key.removesuffix(f"@{old.offset}") in self._tars_now
                self.add(old._replace(container=-1, problem=REPAIRED if is_repaired else old.problem))
            else:
                yield row, old, now

    def has_moved(self, old: Entry, now: Entry) -> bool:
        """Return whether an entry has another size, or lies at another place of its file."""
        return self._place_now(now) != self._place_before(old)

    def add(self, entry: Entry) -> None:
        """Add the entry of the next row."""
        self._entries.append(entry)

    def add_vanished(self, old: Entry) -> None:
        """Add a row whose image is gone: it keeps its entry, as far as that can be read."""
        self._vanished.append(shown(old.key))
        self.add(self._lost.entry(old, _VANISHED))

    def add_changed(self, old: Entry, now: Entry) -> None:
        """Add a row whose image has changed: it keeps its entry, as far as that can be read."""
        self._changed.append(f"{shown(now.key)} ({_how_changed(old, now)})")
        self.add(self._lost.entry(old, _CHANGED))

    def note_description(self, before: Entry, now: Entry) -> None:
        """Count a row whose label or caption differs."""
        if differences := _how_described(before, now):
            self._described.append(f"{shown(now.key)} ({'; '.join(differences)})")

    def listing(self, *, with_new: bool) -> Listing:
        """Return the listing of the rows that were added, and of the new ones after them if asked for."""
        new = self._new.values() if with_new else ()
        return replace(self._listing, entries=[*self._entries, *new], containers=tuple(self._lost.containers))

    def changes(self) -> SourceChanges:
        """Return how the rows differ."""
        return SourceChanges(
            num_new=len(self._new),
            num_changed=len(self._changed),
            num_vanished=len(self._vanished),
            num_described=len(self._described),
            new=[shown(key) for key in list(self._new)[:_NAMES_SHOWN]],
            changed=self._changed[:_NAMES_SHOWN],
            vanished=self._vanished[:_NAMES_SHOWN],
            described=self._described[:_NAMES_SHOWN],
        )


def as_first_listed(old: Entry, now: Entry) -> Entry:
    """Return an entry with the label and the caption that its row has had, unless its scan found a problem then."""
    if old.problem not in ("", _CHANGED, _VANISHED):
        return now
    if now.container < 0:  # then the problem is that of a file beside the image, which the row has no need of
        now = now._replace(problem="")
    if now.label != old.label:
        now = now._replace(label=old.label, label_from=EARLIER)
    if now.caption.encode(errors="replace") != old.caption.encode():  # as in an index
        now = now._replace(caption=old.caption, caption_from=EARLIER)
    return now


def _stands_for_a_loss(entry: Entry) -> bool:
    """Return whether a row is that of a part of a tar that could not be read: no image vanishes with it."""
    return bool(entry.problem) and entry.size_bytes == 0 and entry.key.endswith(f"@{entry.offset}")


def _how_described(before: Entry, now: Entry) -> list[str]:
    """Return what differs in the description of a row; an index holds captions as UTF-8."""
    label_before, label_now = (entry.label if entry.label >= 0 else "none" for entry in (before, now))
    differences = [f"label {label_now}, was {label_before}"] if label_before != label_now else []
    if now.caption.encode(errors="replace") != before.caption.encode(errors="replace"):
        both = before.caption and now.caption
        differences.append("another caption" if both else "caption added" if now.caption else "caption removed")
    return differences


def _how_changed(old: Entry, now: Entry) -> str:
    if now.size_bytes != old.size_bytes:
        return f"{now.size_bytes:,} bytes, was {old.size_bytes:,}"
    return "moved in its file" if now.offset != old.offset else "its row group has other sizes"


def _places(containers: Sequence[Container]) -> Callable[[Entry], tuple[int, int, str]]:
    """Return a function that gives what an entry differs in once its image has changed or moved."""
    ends = [list(accumulate(group.num_rows for group in container.groups)) for container in containers]

    def place(entry: Entry) -> tuple[int, int, str]:
        groups = containers[entry.container].groups if entry.container >= 0 else ()
        stamp = groups[bisect(ends[entry.container], entry.offset)].stamp if groups else ""
        return entry.size_bytes, entry.offset, stamp

    return place


@dataclass
class _LostPlaces:
    """The places of images that changed, moved or vanished, in files as these were then.

    Their rows are back once such a file is: so an index keeps the stamps of its groups, beside the files there are now.
    """

    before: Sequence[Container]
    containers: list[Container]  # of the new index
    _numbers: dict[int, int] = field(default_factory=dict)  # of a container before, by its number then

    def entry(self, old: Entry, problem: str) -> Entry:
        """Return an old entry unchanged, or one that fails when read if it was in a file of many, as others lie there.

        An index of an earlier version may have lost the file.
        """
        if old.offset < 0:
            return old
        if old.container < 0 or not self.before[old.container].groups:
            return old._replace(container=-1, problem=problem)
        if old.container not in self._numbers:
            self._numbers[old.container] = len(self.containers)
            self.containers.append(self.before[old.container])
        return old._replace(container=self._numbers[old.container], problem=problem)
