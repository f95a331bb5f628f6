"""Reads image lists: a path or URL a line, with a class number after a tab, or a table with a column of them.

A text file whose lines are tars stands for these tars.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from tcae_cli.errors import FieldError, SourceError
from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.runtime.folder import open_to_read
from tcae_cli.runtime.remote import is_remote, suffix_of
from tcae_cli.sources.columns import (
    CAPTION_NAMES,
    IMAGE_NAMES,
    LABEL_NAMES,
    caption_in,
    choose,
    choose_image,
    has_several,
    label_in,
    number_labels,
    several_words,
    usual,
)
from tcae_cli.sources.files import FileReader
from tcae_cli.sources.listing import Entry, Listing, counted, ignore
from tcae_cli.sources.locations import location_of, name_in, refuse_mixed, root_of, size_bytes_of, without_query
from tcae_cli.sources.metadata import parse_label, parse_text
from tcae_cli.sources.patterns import existing_files
from tcae_cli.sources.records import RECORD_SUFFIXES, read_records
from tcae_cli.sources.registry import Located, Reader, refuse_other_fields
from tcae_cli.sources.tar import TarShards, is_tar_name, list_tars


class _Line(NamedTuple):
    number: int
    name: str  # as it is listed; "": none that could be a file's
    label: str = ""
    caption: str = ""
    has_several: bool = False  # captions, of which this is the first


class ImageList:
    """A text file that names images."""

    words = "an image list (.txt, .csv, .tsv, .jsonl)"
    fields = frozenset({"image", "label", "caption", "allow_missing"})

    def recognises(self, uri: str) -> bool:
        is_list = suffix_of(uri) in (".txt", *RECORD_SUFFIXES)
        return is_list and (is_remote(uri) or (os.path.exists(uri) and not os.path.isdir(uri)))

    def reader(self, located: Located) -> Reader:
        return FileReader(located)

    def scan(self, uri: str, fields: SampleFields = NO_FIELDS, on_progress: Callable[[int], None] = ignore) -> Listing:
        """List the images by sorted name; a file that does not exist is a row that fails when read.

        The images in listed tars are listed as TarShards lists them, by tar in the order of the lines.

        Names are absolute or relative to the list's folder, and all of one protocol. Keys are relative to that folder,
        or, when an image lies outside of it, to the deepest folder that holds them all. URLs have size 0. A line
        without a name is a row that fails, `list.csv:12`.
        Raises SourceError if nothing is listed, and for a line that cannot be understood.
        """
        folder, _, list_name = (uri if is_remote(uri) else os.path.abspath(uri)).rpartition("/")
        folder += "/"
        data = open_to_read(folder).read(list_name)
        suffix = suffix_of(uri)
        lines = list(_plain_lines(data, uri) if suffix == ".txt" else _table_lines(data, suffix, uri, fields))
        if suffix == ".txt" and any(_names_tar(line) for line in lines):
            return _list_tars(uri, folder, lines, fields, on_progress)
        _refuse_fields(uri, suffix, fields)
        if not lines:
            raise SourceError(f"{uri} lists no images; write one path a line, relative to its folder or absolute")
        labels, class_names = number_labels([line.label for line in lines])
        labelled = list(zip(lines, labels, strict=True))
        named = _by_location(uri, folder, labelled)
        root = root_of(folder, list(named))
        entries = [
            Entry(location[len(root) :], size_bytes_of(location), label, line.caption)
            for location, (line, label) in counted(named.items(), on_progress)
        ]
        shown = without_query(uri, list_name)
        entries += [
            Entry(f"{shown}:{line.number}", 0, label, line.caption, problem="the line has no image")
            for line, label in labelled
            if not line.name
        ]
        return Listing(
            uri,
            root,
            sorted(entries),
            class_names,
            kind="list",
            remarks=tuple(_several_captions(uri, lines)),
            label_from=shown,
            caption_from=shown,
        )


def _names_tar(line: _Line) -> bool:
    return is_tar_name(without_query(line.name, line.name))


def _list_tars(
    uri: str, folder: str, lines: list[_Line], fields: SampleFields, on_progress: Callable[[int], None]
) -> Listing:
    """List the images in the tars that lines name. Raises SourceError for a line that names none, or has a label."""
    refuse_other_fields(uri, "a list of tars", fields, TarShards.fields)
    for line in lines:
        if not _names_tar(line):
            raise SourceError(
                f"{uri}, line {line.number}: {line.name} is not a tar, as others are; make a list of each"
            )
        if line.label:
            raise SourceError(
                f"{uri}, line {line.number}: a tar has no label, because its images have theirs; remove {line.label}"
            )
    locations = list(_by_location(uri, folder, [(line, -1) for line in lines]))
    root = root_of(folder, locations)
    names = [location[len(root) :] for location in locations]
    return list_tars(uri, existing_files(uri, root, names, names, fields.allow_missing), fields, on_progress)


def _several_captions(uri: str, lines: Iterable[_Line]) -> Iterator[str]:
    """Yield a sentence on lines with several captions, if there are any."""
    numbers = [line.number for line in lines if line.has_several]
    if numbers:
        yield f"{uri}: {len(numbers):,} {several_words('a line')}; the first: line {numbers[0]}"


def _refuse_fields(uri: str, suffix: str, fields: SampleFields) -> None:
    """Raise FieldError if the user named a column in a list without columns, or allowed that images are missing."""
    for field in ("image", "label", "caption") if suffix == ".txt" else ():
        if getattr(fields, field) is not None:
            raise FieldError(field, f"--{field}: {uri} has no columns, only paths and class numbers; omit it")
    if fields.allow_missing is not None:
        raise FieldError(
            "allow_missing",
            f"--allow-missing: {uri} lists images, and a missing one is a failed row; omit it, or pass --max-failures",
        )


def _by_location(uri: str, folder: str, labelled: Iterable[tuple[_Line, int]]) -> dict[str, tuple[_Line, int]]:
    """Return the lines that have an image, and their labels, by its path or URL.

    Raises SourceError if an image is listed twice, or if they are of several protocols.
    """
    named: dict[str, tuple[_Line, int]] = {}
    for line, label in labelled:
        if not line.name:
            continue
        location = location_of(folder, line.name)
        if location in named:
            raise SourceError(f"{uri}, line {line.number}: {line.name} was listed before; list each image once")
        named[location] = line, label
    refuse_mixed(uri, list(named))
    return named


def _plain_lines(data: bytes, uri: str) -> Iterator[_Line]:
    """Yield the lines of a list without columns."""
    for number, line in enumerate(parse_text(data, uri).split("\n"), start=1):
        name, _, label = line.partition("\t")
        if label.strip():
            parse_label(label, f"{uri}, line {number}")
        if line.strip():
            yield _Line(number, name.strip(), label.strip())


def _table_lines(data: bytes, suffix: str, uri: str, fields: SampleFields) -> Iterator[_Line]:
    """Yield the lines of a list with columns."""
    columns, records = read_records(data, suffix, uri)
    if not columns:
        return
    image = choose_image(fields.image, columns, usual(columns, IMAGE_NAMES), uri)
    label = choose("label", fields.label, columns, usual(columns, LABEL_NAMES), uri)
    caption = choose("caption", fields.caption, columns, usual(columns, CAPTION_NAMES), uri)
    for number, cells in records:
        where = f"{uri}, line {number}"
        yield _Line(
            number,
            name_in(cells.get(image)),
            label_in(cells.get(label), where) if label is not None else "",
            caption_in(cells.get(caption), where) if caption is not None else "",
            caption is not None and has_several(cells.get(caption)),
        )
