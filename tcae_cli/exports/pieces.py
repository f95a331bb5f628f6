"""Exports of many files: written a piece of rows at a time, and what is finished is not done again."""

from pathlib import Path
from typing import Protocol

from tcae_cli.report import Progress
from tcae_cli.runtime.folder import LocalFolder

_PIECE_BYTES = 2**27


class PieceFormat(Protocol):
    """A format whose files each belong to one piece of rows."""

    @property
    def rows_per_piece(self) -> int:
        """The rows that are encoded together."""

    def last_name(self, piece: range) -> str:
        """The file of a piece that is there only when the others are."""

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


def write_pieces(folder: Path, form: PieceFormat, num_rows: int, progress: Progress) -> int:
    """Write all pieces that are missing, then the closing files; returns the number of rows written."""
    target = LocalFolder(folder)
    pieces = pieces_of(range(num_rows), form.rows_per_piece)
    todo = [piece for piece in pieces if not (folder / form.last_name(piece)).exists()]
    num_todo = sum(map(len, todo))

    progress.start("export", num_rows, done=num_rows - num_todo, unit="rows")
    for piece in todo:
        files = form.files(piece)
        last = form.last_name(piece)
        data = files.pop(last)
        target.write(files, {last: data})
        progress.advance(len(piece))

    target.write(form.closing(folder))
    return num_todo
