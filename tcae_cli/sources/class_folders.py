"""Chooses between the labels that are stated for images and the folders that images lie in."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tcae_cli.errors import FieldError
from tcae_cli.sources.columns import number_labels
from tcae_cli.sources.listing import Listing
from tcae_cli.sources.metadata_choice import FOLDERS, NONE, Chosen, Descriptions, Origin, Statements
from tcae_cli.sources.spelling import shown

_NUMBERED = re.compile(r"[0-9]{5,}")  # as img2dataset and the dataset_tool.py of EDM2 number parts of a dataset
_PARTS = "numbered parts of a dataset"
_CLASS_FOLDERS = str(Origin(FOLDERS))
_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "eval", "test", "testing", "dev", "holdout"}
_CONTAINER_NAMES = {"image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "data", "samples"}
_NAMES_SHOWN = 4


@dataclass(frozen=True)
class ClassFolders:
    """The folders that may be classes, by row."""

    names: Sequence[str]  # of each row; "": in none
    are_expected: bool  # whether folders that do not look like classes are classes all the same, as torchvision has it
    has_dataset_json: bool = False  # which EDM2 writes beside numbered folders
    failed: Collection[int] = ()  # rows that cannot be read, perhaps for lack of their label


class Labels(NamedTuple):
    """The labels of all rows, and where they come from."""

    numbers: list[int]  # -1: none
    class_names: tuple[str, ...]  # () where labels are numbers
    origins: list[str]  # "": none
    disagreement: str = ""
    remarks: tuple[str, ...] = ()


def choose_labels(statements: Statements, folders: ClassFolders, uri: str, key: Callable[[int], str]) -> Labels:
    """Return the labels that are stated for images or, where none are, those of the folders that they lie in.

    key: returns the key of a row, for messages. Raises FieldError if the user chose labels that do not exist.
    """
    distinct = sorted(set(folders.names) - {""})
    if statements.asked == FOLDERS:
        if not distinct:
            raise FieldError("label", f"--label {FOLDERS}: the images of {uri} are in no folders; omit it")
        return _of_folders(folders)
    chosen = statements.choose(uri, key)
    resembled = _resembled(distinct)
    if not chosen.texts and statements.asked is None and len(distinct) >= (1 if folders.are_expected else 2):
        are_parts = folders.has_dataset_json and resembled == _PARTS
        are_classes = not resembled or (folders.are_expected and not are_parts)
        remark = _remark(uri, distinct, resembled, are_classes)
        if are_classes:
            return _of_folders(folders, remark)
        return Labels([-1] * len(folders.names), (), [""] * len(folders.names), remarks=remark)
    disagreement = chosen.disagreement
    if not disagreement and statements.asked is None and not resembled and len(distinct) > 1:
        disagreement = _disagreement(statements, chosen, folders, uri, key)
    rows = range(len(folders.names))
    numbers, class_names = number_labels([chosen.texts.get(row, "") for row in rows])
    words = {origin: str(origin) for origin in statements.by_origin}
    origins = [words[chosen.origins[row]] if row in chosen.origins else "" for row in rows]
    return Labels(numbers, class_names, origins, disagreement)


def described(listing: Listing, descriptions: Descriptions, folders: ClassFolders) -> Listing:
    """Return a listing with the labels and captions that were stated for its rows, and with what is not used of them.

    Raises FieldError if the user chose labels or captions that do not exist.
    """

    def key(row: int) -> str:
        return listing.entries[row].key

    labels = choose_labels(descriptions.labels, folders, listing.uri, key)
    captions = descriptions.captions.choose(listing.uri, key)
    words = {origin: str(origin) for origin in descriptions.captions.by_origin}
    entries = [
        entry._replace(
            label=labels.numbers[row],
            label_from=labels.origins[row],
            caption=captions.texts.get(row, ""),
            caption_from=words[captions.origins[row]] if row in captions.origins else "",
        )
        for row, entry in enumerate(listing.entries)
    ]
    return replace(
        listing,
        entries=entries,
        class_names=labels.class_names,
        remarks=(*listing.remarks, *labels.remarks, *descriptions.all_remarks(listing.uri)),
        disagreements=tuple(filter(None, (labels.disagreement, captions.disagreement))),
    )


def _of_folders(folders: ClassFolders, remarks: tuple[str, ...] = ()) -> Labels:
    numbers, class_names = _number_folders(folders.names)
    return Labels(numbers, class_names, [_CLASS_FOLDERS if name else "" for name in folders.names], remarks=remarks)


def _number_folders(names: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """Return the class of each row, and the names of classes: folders by sorted name, even where these are numbers.

    Names are as they are shown: those of a folder need not be UTF-8, which those in a store are.
    """
    distinct = sorted(set(names) - {""})
    numbers = {"": -1} | {name: number for number, name in enumerate(distinct)}
    return [numbers[name] for name in names], tuple(map(shown, distinct))


def _resembled(names: Sequence[str]) -> str:
    """Return what folders of these names look like rather than classes; "" if like classes."""
    if names and all(map(_NUMBERED.fullmatch, names)):
        return _PARTS
    num_splits = sum(name.lower() in _SPLIT_NAMES for name in names)
    if num_splits > 1 or 0 < num_splits == len(names):
        return "splits of a dataset"
    return "a folder of all images" if len(names) == 1 and names[0].lower() in _CONTAINER_NAMES else ""


def _remark(uri: str, names: Sequence[str], resembled: str, are_classes: bool) -> tuple[str, ...]:
    """Return a sentence on folders that look like something else than classes; none if they do not."""
    if not resembled:
        return ()
    shown = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
    folders = f"{uri}: the folders {shown}" if len(names) > 1 else f"{uri}: the folder {shown}"
    verb = "look" if len(names) > 1 else "looks"
    if are_classes:
        return (
            f"{folders} became classes but {verb} like {resembled}; if these are no classes, pass --label {NONE}, or "
            f"name a folder of classes as the source",
        )
    return (
        f"{folders} {verb} like {resembled} and did not become classes; if these are classes, pass --label {FOLDERS}",
    )


def _disagreement(
    statements: Statements, chosen: Chosen, folders: ClassFolders, uri: str, key: Callable[[int], str]
) -> str:
    """Return a sentence if labels do not go by folders: a folder has two labels, a label two folders, or an image none.

    Some images have labels.
    """
    names = folders.names
    in_folders = [row for row, name in enumerate(names) if name and row not in folders.failed]
    labelled = [row for row in in_folders if row in chosen.texts]
    origin = chosen.origins[labelled[0] if labelled else min(chosen.texts)]
    choice = f"choose with {statements.option(origin, Origin(FOLDERS))} or --label {FOLDERS}"
    of_folder: dict[str, int] = {}
    of_label: dict[str, int] = {}
    for row in labelled:
        text = chosen.texts[row]
        same_folder = of_folder.setdefault(names[row], row)
        same_label = of_label.setdefault(text, row)
        if chosen.texts[same_folder] != text or names[same_label] != names[row]:
            other = same_folder if chosen.texts[same_folder] != text else same_label
            return (
                f"{uri}: folders and {origin} state different labels: {key(other)} and {key(row)} have the labels "
                f"{chosen.texts[other][:40]!r} and {text[:40]!r} by {origin}; {choice}"
            )
    if len(labelled) < len(in_folders):
        first = next(row for row in in_folders if row not in chosen.texts)
        return (
            f"{uri}: {len(in_folders) - len(labelled):,} of {len(in_folders):,} images in class folders have no label "
            f"by {origin}, the first of them {key(first)}; {choice}"
        )
    return ""
