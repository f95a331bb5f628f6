"""Updates the index of a source: rows keep their numbers, and new ones come after them."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from tcae_cli.errors import SourceError
from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.sources.index import write_index
from tcae_cli.sources.listing import Listing, ignore
from tcae_cli.sources.merged_rows import MergedRows, SourceChanges, as_first_listed
from tcae_cli.sources.metadata_choice import FOLDERS, Origin
from tcae_cli.sources.scan import scan
from tcae_cli.sources.source import Source
from tcae_cli.sources.spelling import shown


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
    rows = MergedRows(previous, listing)
    set_aside = {entry.key: entry for entry in listing.set_aside}
    for row, old, now in rows:
        if now is None and old.key in set_aside:  # begun when these images counted, and continued so
            now = set_aside[old.key]._replace(label=old.label, caption=old.caption)
        if now is None:
            rows.add_vanished(old)
        elif row in retried:
            rows.add(now)
        elif rows.has_moved(old, now):
            rows.add_changed(old, now)
        else:
            kept = as_first_listed(old, now)
            rows.add(kept)
            rows.note_description(kept, now)
    return rows.listing(with_new=True), rows.changes()


def _redescribe(previous: Source, listing: Listing, has_given_classes: bool) -> tuple[Listing, SourceChanges]:
    """Return the rows of a previous index with the labels and captions of a listing, and how they differ."""
    was_named, is_named = bool(previous.class_names), bool(listing.class_names)
    if was_named and is_named and not has_given_classes:
        listing = _with_classes_of(previous, listing)
    rows = MergedRows(previous, listing)
    set_aside = {entry.key for entry in listing.set_aside}
    moved: list[int] = []
    kept: list[str] = []  # keys of rows that keep their old label and caption
    for row, old, now in rows:
        has_new_problem = now is not None and bool(now.problem) and not old.problem
        if now is None or now.size_bytes != old.size_bytes or has_new_problem:
            kept.append(old.key)
        if now is None and old.key in set_aside:
            rows.add(old)
        elif now is None:
            rows.add_vanished(old)
        elif now.size_bytes != old.size_bytes:
            rows.add_changed(old, now)
        elif has_new_problem:
            rows.add(as_first_listed(old, now))
        else:
            if rows.has_moved(old, now):
                moved.append(row)
            rows.add(now)
            rows.note_description(old, now)
    changes = replace(rows.changes(), moved=moved)
    is_renumbered = was_named != is_named or listing.class_names[: len(previous.class_names)] != previous.class_names
    if kept and is_renumbered and changes.num_vanished < len(previous):  # else it is another source
        raise SourceError(
            f"{listing.uri}: {len(kept):,} images changed, vanished or lost their labels since they were encoded, so "
            f"these cannot be numbered anew (the first is {shown(kept[0])}); put them back"
        )
    return rows.listing(with_new=False), changes


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


def _with_classes_of(previous: Source, listing: Listing) -> Listing:
    """Return a listing in which the classes of a previous index keep their numbers, and new ones come after them."""
    class_names = tuple(dict.fromkeys((*previous.class_names, *listing.class_names)))
    if listing.class_names == class_names:
        return listing
    numbers = {name: label for label, name in enumerate(class_names)}
    labels = [numbers[name] for name in listing.class_names]
    entries = [entry._replace(label=labels[entry.label]) if entry.label >= 0 else entry for entry in listing.entries]
    return replace(listing, entries=entries, class_names=class_names)
