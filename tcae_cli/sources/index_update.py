"""Updates the index of a source: rows keep their numbers, and new ones come after them."""

import os
from bisect import bisect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

from tcae_cli.errors import SourceError
from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.reports.described import EARLIER
from tcae_cli.sources.index import write_index
from tcae_cli.sources.listing import Container, Entry, Listing, ignore
from tcae_cli.sources.metadata_choice import FOLDERS, Origin
from tcae_cli.sources.source import Source, scan

_NAMES_SHOWN = 10
_CHANGED = "has changed or moved in its file since it was first listed"
_REPAIRED = "was a part of a tar that could not be read, whose images have rows of their own now"
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


@dataclass(frozen=True)
class PreviousIndex:
    """The index that a source had before, and in what the source may differ from it."""

    folder: Path
    append: bool = False  # new samples become rows after the old ones; otherwise the caller refuses what differs
    retried: Collection[int] = ()  # rows to be read again; these may change, and that does not count
    redescribe: bool = False  # rows take the labels and captions that they have now; new samples stay out


def index_source(
    uri: str,
    index_dir: Path,
    previous: PreviousIndex | None = None,
    fields: SampleFields = NO_FIELDS,
    on_progress: Callable[[int], None] = ignore,
) -> SourceChanges:
    """Scan a source, write its index into `index_dir`, and return how it differs from its previous index.

    Rows of the previous index keep their numbers, by key, size and place in a tar or table, and their labels and
    captions, some of which may have been stored. With append, new ones come after them, new classes too, and a sample
    that changed or vanished keeps its old entry; without, a source that differs gets the index of the plain scan.
    Without a previous index nothing counts as new.
    With redescribe rows take their labels and captions from the scan. A sample of the same size at another place of its
    file has moved; the caller compares its bytes. One that changed or vanished keeps its old entry, and new ones are
    only counted.
    fields, on_progress: as scan's.
    Raises SourceError if the previous index is of another version, and everything that scan raises.
    """
    listing = scan(uri, fields, on_progress)
    changes = SourceChanges()
    if previous is not None:
        before = Source(previous.folder)
        if previous.redescribe:
            listing, changes = _redescribe(before, listing, bool(fields.classes))
        else:
            if fields.label is None and _begun_with_folders(before, listing):
                listing = scan(uri, replace(fields, label=FOLDERS), on_progress)
                remark = (
                    f"{uri}: its folders were the classes when it was first listed, and stay the classes; "
                    f"--update-metadata takes the labels that are stated beside the images now"
                )
                listing = replace(listing, remarks=(*listing.remarks, remark))
            merged, changes = _merge(before, listing, frozenset(previous.retried))
            listing = merged if previous.append or not changes else listing
    write_index(index_dir, listing)
    return changes


def _merge(previous: Source, listing: Listing, retried: Collection[int]) -> tuple[Listing, SourceChanges]:
    """Return the rows of a previous index as they are now, then the new ones, and how they differ."""
    listing = _with_classes_of(previous, _with_labels_of_one_kind(previous, listing))
    found = {entry.key: entry for entry in listing.entries}
    place_before = _places(previous.containers)
    place_now = _places(listing.containers)
    lost = _LostPlaces(previous.containers, list(listing.containers))
    entries: list[Entry] = []
    changed: list[str] = []
    vanished: list[str] = []
    described: list[str] = []
    set_aside = {entry.key: entry for entry in listing.set_aside}
    for row, old in enumerate(previous.entries()):
        now = found.pop(old.key, None)
        if now is None and old.key in set_aside:  # begun when these images counted, and continued so
            now = set_aside[old.key]._replace(label=old.label, caption=old.caption)
        if now is None and _stands_for_a_loss(old):
            entries.append(old._replace(container=-1, problem=_REPAIRED))
        elif now is None:
            vanished.append(_shown(old.key))
            entries.append(lost.entry(old, _VANISHED))
        elif place_now(now) != place_before(old) and row not in retried:
            changed.append(f"{_shown(now.key)} ({_how_changed(old, now)})")
            entries.append(lost.entry(old, _CHANGED))
        else:
            kept = now if row in retried else _as_first_listed(old, now)
            if (kept.label, kept.caption) != (now.label, now.caption):
                described.append(_how_described(kept, now))
            entries.append(kept)
    changes = _changes(list(found), changed, vanished, described)
    merged = replace(listing, entries=[*entries, *found.values()], containers=tuple(lost.containers))
    return merged, changes


def _redescribe(previous: Source, listing: Listing, has_given_classes: bool) -> tuple[Listing, SourceChanges]:
    """Return the rows of a previous index with the labels and captions of a listing, and how they differ."""
    was_named, is_named = bool(previous.class_names), bool(listing.class_names)
    if was_named and is_named and not has_given_classes:
        listing = _with_classes_of(previous, listing)
    found = {entry.key: entry for entry in listing.entries}
    place_before = _places(previous.containers)
    place_now = _places(listing.containers)
    lost = _LostPlaces(previous.containers, list(listing.containers))
    entries: list[Entry] = []
    changed: list[str] = []
    vanished: list[str] = []
    described: list[str] = []
    moved: list[int] = []
    set_aside = {entry.key for entry in listing.set_aside}
    kept: list[str] = []  # rows that keep their old label and caption
    for row, old in enumerate(previous.entries()):
        now = found.pop(old.key, None)
        if now is None and _stands_for_a_loss(old):
            entries.append(old._replace(container=-1, problem=_REPAIRED))
            continue
        if now is None or now.size_bytes != old.size_bytes or (now.problem and not old.problem):
            kept.append(_shown(old.key))
        if now is None and old.key in set_aside:
            entries.append(old)
        elif now is None:
            vanished.append(_shown(old.key))
            entries.append(lost.entry(old, _VANISHED))
        elif now.size_bytes != old.size_bytes:
            changed.append(f"{_shown(now.key)} ({_how_changed(old, now)})")
            entries.append(lost.entry(old, _CHANGED))
        elif now.problem and not old.problem:
            entries.append(_as_first_listed(old, now))
        else:
            if place_now(now) != place_before(old):
                moved.append(row)
            if not _is_described_alike(old, now):
                described.append(_how_described(old, now))
            entries.append(now)
    is_renumbered = was_named != is_named or listing.class_names[: len(previous.class_names)] != previous.class_names
    if kept and is_renumbered and len(vanished) < len(entries):  # else it is another source
        raise SourceError(
            f"{listing.uri}: {len(kept):,} images changed, vanished or lost their labels since they were encoded, so "
            f"these cannot be numbered anew (the first is {kept[0]}); put them back"
        )
    changes = replace(_changes(list(found), changed, vanished, described), moved=moved)
    return replace(listing, entries=entries, containers=tuple(lost.containers)), changes


def _stands_for_a_loss(entry: Entry) -> bool:
    """Return whether a row is that of a part of a tar that could not be read: no image vanishes with it."""
    return bool(entry.problem) and entry.size_bytes == 0 and entry.key.endswith(f"@{entry.offset}")


def _changes(new: list[str], changed: list[str], vanished: list[str], described: list[str]) -> SourceChanges:
    """Return the differences, of which these are all; `new` are keys, the others are names to show."""
    return SourceChanges(
        num_new=len(new),
        num_changed=len(changed),
        num_vanished=len(vanished),
        num_described=len(described),
        new=[_shown(key) for key in new[:_NAMES_SHOWN]],
        changed=changed[:_NAMES_SHOWN],
        vanished=vanished[:_NAMES_SHOWN],
        described=described[:_NAMES_SHOWN],
    )


def _begun_with_folders(previous: Source, listing: Listing) -> bool:
    """Return whether rows were first listed with folders as classes, and other labels or none are stated for them now.

    Earlier versions did not read all that may lie beside an image.
    """
    if listing.kind != "folder" or not previous.class_names:
        return False
    class_folders = str(Origin(FOLDERS))
    if listing.class_names and all(each.label < 0 or each.label_from == class_folders for each in listing.entries):
        return False
    folders = {key.partition("/")[0] for key in previous.keys(range(len(previous))) if "/" in key}
    are_there = any(each.key.partition("/")[0] in folders for each in listing.entries)
    return are_there and folders == set(previous.class_names)


def _with_labels_of_one_kind(previous: Source, listing: Listing) -> Listing:
    """Return a listing without its labels if they were numbers and are names now, or the reverse: rows keep their own.

    Raises SourceError if there are new rows with a label, since names and numbers have class numbers of their own.
    """
    was_named = bool(previous.class_names)
    was_labelled = was_named or bool((previous.labels(0, len(previous)) >= 0).any())
    is_named = bool(listing.class_names)
    is_labelled = is_named or any(entry.label >= 0 for entry in listing.entries)
    if not (was_labelled and is_labelled) or was_named == is_named:
        return listing
    known = {entry.key for entry in previous.entries()}
    if any(entry.label >= 0 and entry.key not in known for entry in listing.entries):
        before, now = ("names", "numbers") if was_named else ("numbers", "names")
        raise SourceError(
            f"{listing.uri}: labels were class {before} when it was first listed, and are {now} now; "
            f"put them back, choose others with --label, or encode into another store"
        )
    return replace(listing, class_names=(), entries=[entry._replace(label=-1) for entry in listing.entries])


def _as_first_listed(old: Entry, now: Entry) -> Entry:
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


def _is_described_alike(old: Entry, now: Entry) -> bool:
    """Return whether two entries have the same label and the same caption, which an index holds as UTF-8."""
    return now.label == old.label and now.caption.encode(errors="replace") == old.caption.encode()


def _how_described(old: Entry, now: Entry) -> str:
    """Return the key of a row, and in what its description differs."""
    before, after = (entry.label if entry.label >= 0 else "none" for entry in (old, now))
    differences = [f"label {after}, was {before}"] if before != after else []
    if now.caption.encode(errors="replace") != old.caption.encode(errors="replace"):
        both = old.caption and now.caption
        differences.append("another caption" if both else "caption added" if now.caption else "caption removed")
    return f"{_shown(now.key)} ({'; '.join(differences)})"


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


def _how_changed(old: Entry, now: Entry) -> str:
    if now.size_bytes != old.size_bytes:
        return f"{now.size_bytes:,} bytes, was {old.size_bytes:,}"
    return "moved in its file" if now.offset != old.offset else "its row group has other sizes"


def _with_classes_of(previous: Source, listing: Listing) -> Listing:
    """Return a listing in which the classes of a previous index keep their numbers, and new ones come after them."""
    class_names = tuple(dict.fromkeys((*previous.class_names, *listing.class_names)))
    if listing.class_names == class_names:
        return listing
    numbers = {name: label for label, name in enumerate(class_names)}
    labels = [numbers[name] for name in listing.class_names]
    entries = [entry._replace(label=labels[entry.label]) if entry.label >= 0 else entry for entry in listing.entries]
    return replace(listing, entries=entries, class_names=class_names)


def _shown(key: str) -> str:
    return os.fsencode(key).decode(errors="backslashreplace")
