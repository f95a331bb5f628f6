"""Reads lists of class names, and numbers the classes of a listing by such a list."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from unicodedata import normalize

from tcae_cli.errors import NotFoundError, SourceError
from tcae_cli.runtime.folder import open_to_read
from tcae_cli.runtime.remote import is_remote
from tcae_cli.sources.listing import Listing
from tcae_cli.sources.metadata import parse_text

_NAMES_SHOWN = 5


def read_class_names(uri: str) -> tuple[str, ...]:
    """Return the names of classes 0, 1, ... in a text file of one name a line, or in a .json file with a list of them.

    uri: a local path or a URL. Raises NotFoundError if it does not exist, SourceError if it is no such list or names a
    class twice.
    """
    folder, _, name = (uri if is_remote(uri) else os.path.abspath(uri)).rpartition("/")
    try:
        data = open_to_read(f"{folder}/").read(name)
    except FileNotFoundError as error:
        raise NotFoundError(f"{uri} does not exist; name a file of class names, or a store") from error
    except OSError as error:
        raise SourceError(f"{uri} cannot be read ({error.strerror or error}); check its permissions") from error
    text = parse_text(data, uri)
    names = _names_in_json(text, uri) if name.lower().endswith(".json") else _names_in_lines(text, uri)
    if not names:
        raise SourceError(f"{uri} names no class; write the name of one class a line")
    numbers: dict[str, int] = {}
    for number, class_name in enumerate(names):
        first = numbers.setdefault(_comparable(class_name), number)
        if first != number:
            raise SourceError(f"{uri} names {class_name} as class {first} and as class {number}; name each class once")
    return tuple(names)


def with_class_numbers(listing: Listing, class_names: Sequence[str]) -> Listing:
    """Return a listing whose labels are the places of its classes in a list of names.

    Labels without names are places in the list already, unless all names of the list are whole numbers themselves:
    then a label stands for the class of that name. Names are compared in Unicode's composed form.
    Raises SourceError if there are no labels, or a class is not in the list.
    """
    if not listing.class_names and all(entry.label < 0 for entry in listing.entries):
        raise SourceError(f"{listing.uri} has no labels, so --classes has nothing to number; omit it")
    number_of = _number_of(listing, class_names)
    numbers: dict[int, int] = {}
    unknown: list[int] = []
    for label in sorted({entry.label for entry in listing.entries}):
        number = number_of(label)
        if number is None:
            unknown.append(label)
        else:
            numbers[label] = number
    if unknown:
        raise SourceError(_not_in_the_list(listing, class_names, unknown))
    entries = [entry._replace(label=numbers[entry.label]) for entry in listing.entries]
    return replace(listing, entries=entries, class_names=tuple(class_names))


def _number_of(listing: Listing, class_names: Sequence[str]) -> Callable[[int], int | None]:
    """Return a function that gives the place in the list of the class that a label of the listing stands for."""
    if listing.class_names:
        places = {_comparable(name): number for number, name in enumerate(class_names)}
        names = [_comparable(name) for name in listing.class_names]
        return lambda label: places.get(names[label]) if label >= 0 else -1
    if all(name.isdecimal() for name in class_names):
        by_value = {int(name): number for number, name in enumerate(class_names)}
        return lambda label: by_value.get(label) if label >= 0 else -1
    return lambda label: label if label < len(class_names) else None


def _not_in_the_list(listing: Listing, class_names: Sequence[str], unknown: Sequence[int]) -> str:
    """Return the sentence for classes that a list lacks, given by their labels in the listing."""
    names = [listing.class_names[label] if listing.class_names else str(label) for label in unknown]
    shown = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
    close = get_close_matches(names[0], class_names, n=1)
    advice = f" (did you mean {close[0]}?)" if close else ""
    return (
        f"{listing.uri}: of its classes {len(names):,} are not among the {len(class_names):,} of --classes: "
        f"{shown}{advice}; give a list that has them, or move their images away"
    )


def _names_in_json(text: str, where: str) -> list[str]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where}: not readable as JSON ({error}); correct it") from error
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise SourceError(f"{where}: should be a JSON list of class names; correct it, or give one name a line")
    return names


def _names_in_lines(text: str, where: str) -> list[str]:
    """Return the lines of a text; empty lines may only be at its end, since the place of a line is its class number."""
    names = [line.strip() for line in text.rstrip().splitlines()]
    if "" in names:
        raise SourceError(
            f"{where}, line {names.index('') + 1}, is empty, and the place of a line is its class number; remove it"
        )
    return names


def _comparable(name: str) -> str:
    return normalize("NFC", name)
