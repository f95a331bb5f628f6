"""Exports of many files: written a piece of rows at a time, and what is finished is not done again."""

import os
from pathlib import Path
from typing import Protocol

from tcae_cli.reports.progress import Progress
from tcae_cli.runtime.folder import LocalFolder

_PIECE_BYTES = 2**27


class NamedFiles(Protocol):
    """A format whose files have known names."""

    @property
    def rows_per_piece(self) -> int:
        """The rows that are encoded together."""

    def names(self, piece: range) -> list[str]:
        """The files of a piece."""

    @property
    def closing_names(self) -> tuple[str, ...]:
        """The files that describe all pieces."""


class PieceFormat(NamedFiles, Protocol):
    """A format whose files each belong to one piece of rows."""

    def files(self, piece: range) -> dict[str, bytes]:
        """The files of a piece, by name."""

    def closing(self, folder: Path) -> dict[str, bytes]:
        """The files that describe all pieces, which lie in this folder."""


def rows_per_piece(row_bytes: int, most: int) -> int:
    """As many rows as fit a piece, from 1 to `most`."""
    return max(1, min(most, _PIECE_BYTES // row_bytes))


def pieces_of(rows: range, size: int) -> list[range]:
    """Ranges of at most `size` rows."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def is_whole(folder: Path, form: NamedFiles, num_rows: int) -> bool:
    """Whether every file of an export is there, by name."""
    return not _missing(folder, form, num_rows) and all((folder / name).is_file() for name in form.closing_names)


def write_pieces(folder: Path, form: PieceFormat, num_rows: int, progress: Progress) -> int:
    """Write all pieces that lack a file, then the closing files; returns the number of rows written."""
    target = LocalFolder(folder)
    todo = _missing(folder, form, num_rows)
    num_todo = sum(map(len, todo))

    progress.start("export", num_rows, done=num_rows - num_todo, unit="rows")
    for piece in todo:
        target.write(form.files(piece))
        progress.advance(len(piece))

    target.write(form.closing(folder))
    return num_todo


def _missing(folder: Path, form: NamedFiles, num_rows: int) -> list[range]:
    """The pieces that lack a file."""
    there = _names_below(folder)
    pieces = pieces_of(range(num_rows), form.rows_per_piece)
    return [piece for piece in pieces if not there.issuperset(form.names(piece))]


def _names_below(folder: Path) -> set[str]:
    """Every file, relative: to list folders is much faster than to ask for each of a million files."""
    found: set[str] = set()
    for parent, _, names in os.walk(folder):
        below = os.path.relpath(parent, folder)
        found.update(names if below == "." else (f"{below}/{name}" for name in names))
    return found
