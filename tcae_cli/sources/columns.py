"""Finds the columns of a table that hold images, labels and captions, and reads the values in their cells."""

import re
from collections.abc import Iterable, Mapping, Sequence

from tcae_cli.errors import FieldError, SourceError

IMAGE_NAMES = (
    *("image", "image_path", "image_file", "image_url", "img", "img_path", "file", "file_name", "file_path"),
    *("filename", "filepath", "path", "url"),
)
LABEL_NAMES = (
    "label",
    "label_id",
    "label_name",
    "class",
    "class_id",
    "class_name",
    "category",
    "category_id",
    "category_name",
)
CAPTION_NAMES = ("caption", "captions", "text", "prompt", "description")

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}(\.0+)?")  # int64; pandas writes 3.0 where other cells are empty


def usual(columns: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return the columns that have one of these names, in upper or lower case."""
    return [column for column in columns if column.lower() in names]


def choose(field: str, asked: str | None, columns: Sequence[str], candidates: Sequence[str], where: str) -> str | None:
    """Return the column of a field ("image", "label" or "caption"), None if there is no candidate.

    asked: the column that the user named by the option of the field; it need not be a candidate.
    candidates: the columns that may hold the field.
    where: the table, for messages.
    Raises FieldError if there is no column of the name asked for, SourceError if there are several candidates.
    """
    if asked is not None:
        if asked not in columns:
            raise FieldError(
                field, f"--{field} {asked}: {where} has no such column, only {_listed(columns)}; name one of these"
            )
        return asked
    if len(candidates) > 1:
        raise SourceError(
            f"{where} has several columns that may hold the {field}: {_listed(candidates)}; choose one with --{field}"
        )
    return candidates[0] if candidates else None


def choose_image(asked: str | None, columns: Sequence[str], candidates: Sequence[str], where: str) -> str:
    """Return the column of the images, as `choose` does. Raises SourceError if there is no candidate, too."""
    column = choose("image", asked, columns, candidates, where)
    if column is None:
        raise SourceError(
            f"{where} has no column that is known to hold images, only {_listed(columns)}; name one with --image"
        )
    return column


def caption_in(cell: object, where: str) -> str:
    """Return the caption in a cell: a text, the first of a list of texts, or "" if it is empty.

    Raises SourceError, naming `where`, for anything else.
    """
    if isinstance(cell, list | tuple):
        cell = cell[0] if cell else None
    if isinstance(cell, Mapping | list | tuple):
        raise SourceError(
            f"{where}: the caption should be a text or a list of texts, found {type(cell).__name__}; "
            f"choose another column with --caption"
        )
    return "" if cell is None else str(cell).strip()


def has_several(cell: object) -> bool:
    """Return whether a cell of captions holds others after the first, which caption_in returns."""
    return isinstance(cell, list | tuple) and len(cell) > 1


def several_words(place: str) -> str:
    """Return what is said of images with several captions, between their number and the first example."""
    return f"images have several captions in {place}, of which the first is used"


def label_in(cell: object, where: str) -> str:
    """Return the label in a cell, a number or a name, as a text; "" if it is empty.

    Raises SourceError, naming `where`, for anything else.
    """
    if cell is None or cell != cell:  # NaN
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    if not isinstance(cell, str | int | float):
        raise SourceError(
            f"{where}: the label should be a number or a name, found {type(cell).__name__}; "
            f"choose another column with --label"
        )
    return str(cell).strip().encode(errors="replace").decode()  # JSON may escape half a character, as in captions


def means_none(label: str) -> bool:
    """Return whether a label, a number or a name, means that there is none: it is empty or a number below zero."""
    return not label or (_WHOLE_NUMBER.fullmatch(label) is not None and _whole(label) < 0)


def number_labels(cells: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """Return the class number of each label, and the names of classes where the labels are names.

    Whole numbers are class numbers, of which those below zero mean none, as in Parquet. If any label is not one, all
    are names, numbered by sorted name. "" is no label either way. What is none gets -1.
    """
    distinct = set(cells) - {""}
    if all(_WHOLE_NUMBER.fullmatch(label) for label in distinct):
        names: list[str] = []
        numbers = {label: max(-1, _whole(label)) for label in distinct}
    else:
        names = sorted(distinct)
        numbers = {name: number for number, name in enumerate(names)}
    numbers[""] = -1
    return [numbers[label] for label in cells], tuple(names)


def _whole(number: str) -> int:
    return int(number.partition(".")[0])


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(map(str, columns)) or "none"
