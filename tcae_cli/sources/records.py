"""Reads tables of text, .csv, .tsv and .jsonl: the names of their columns, and the cells of each line by column."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from itertools import chain
from typing import Any, NamedTuple

from tcae_cli.errors import SourceError
from tcae_cli.sources.listing import is_image_name
from tcae_cli.sources.metadata import as_utf8, decode_text, parse_metadata

RECORD_SUFFIXES = (".csv", ".tsv", ".jsonl")

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


class Record(NamedTuple):
    """One line of a table, or several where a cell has line breaks."""

    line: int  # that it begins at, from 1
    cells: Mapping[str, Any]  # by column; an empty or missing cell may be missing


class Records(NamedTuple):
    """A table; its records can be gone through once."""

    columns: list[str]
    records: Iterator[Record]


def read_records(data: bytes, suffix: str, where: str) -> Records:
    """Return the table in the bytes of a file of a suffix in RECORD_SUFFIXES, in UTF-8, or in UTF-16 with a BOM.

    Cells of .csv and .tsv are texts, and their first line names the columns. Lines of .jsonl are JSON objects, and the
    columns are the keys of all of them.
    Raises SourceError, naming `where`, for bytes that are not what their BOM says and, with its number, for a line that
    is no record, as the records are gone through.
    """
    data = as_utf8(data, where)
    if suffix in _DELIMITERS:
        return _delimited(data, suffix, where)
    # Parsed twice rather than kept: a million objects take a gigabyte.
    columns = dict.fromkeys(chain.from_iterable(record.cells for record in _objects(data, where)))
    return Records(list(columns), _objects(data, where))


def _objects(data: bytes, where: str) -> Iterator[Record]:
    for number, line in enumerate(BytesIO(data), start=1):
        if line.strip():
            yield Record(number, parse_metadata(line, f"{where}, line {number}"))


def _delimited(data: bytes, suffix: str, where: str) -> Records:
    rows = _rows(data, suffix, where)
    line, header = next(rows, (1, []))
    columns = [name.strip() for name in header]
    if found := next(filter(is_image_name, columns), None):
        raise SourceError(
            f"{where}, line {line} should name the columns, but it has {found}; begin the file with a line such as "
            f"{_DELIMITERS[suffix].join(('image', 'label', 'caption'))}"
        )
    if repeated := next((name for name in columns if name and columns.count(name) > 1), None):
        raise SourceError(f"{where}, line {line}: two columns are called {repeated}; rename one")
    return Records(columns, _records(rows, columns, where))


def _records(rows: Iterable[tuple[int, list[str]]], columns: list[str], where: str) -> Iterator[Record]:
    for line, row in rows:
        if len(row) > len(columns):
            raise SourceError(
                f"{where}, line {line} has {len(row)} cells, but the header has {len(columns)}; "
                f"put cells that hold a comma or a tab in double quotes"
            )
        yield Record(line, dict(zip(columns, row, strict=False)))


def _rows(data: bytes, suffix: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row that is not blank, and the line that it begins at."""
    lines = (decode_text(line, f"{where}, line {number}") for number, line in enumerate(BytesIO(data), start=1))
    # Strict: a quote that is never closed would otherwise swallow the rest of the file.
    reader = csv.reader(lines, delimiter=_DELIMITERS[suffix], strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise SourceError(
                f"{where}, line {line}: not readable as {suffix[1:].upper()} ({error}); correct its double quotes"
            ) from error
        if row is None:
            return
        if len(row) > 1 or any(map(str.strip, row)):
            yield line, row
