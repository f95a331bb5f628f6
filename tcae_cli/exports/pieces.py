"""Formats of many files: written a piece of rows at a time, and files that are finished are not written again."""

import os
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from tcae_cli.exports.format import ExportFormat
from tcae_cli.images.partition import batches_of_rows
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime.files import refuse_unlisted
from tcae_cli.runtime.local_folder import LocalFolder


class PieceFormat(ExportFormat):
    """A format of files that each belong to one piece of rows, and perhaps files that describe all pieces."""

    closing_names: ClassVar[tuple[str, ...]] = ()  # the files that describe all pieces

    @abstractmethod
    def names(self, piece: range) -> list[str]:
        """Return the names of a piece's files, relative to the folder."""

    @abstractmethod
    def files(self, piece: range) -> dict[str, bytes]:
        """Return a piece's files by name."""

    def closing_files(self, folder: Path) -> dict[str, bytes]:
        """Return the files that describe all pieces, which are in this folder."""
        return {}

    @property
    def pieces(self) -> list[range]:
        """All rows, in pieces."""
        return batches_of_rows(0, len(self.rows), self.rows_per_piece)

    def is_whole(self, folder: Path) -> bool:
        return not self._missing(folder) and all((folder / name).is_file() for name in self.closing_names)

    def fill(self, folder: Path, progress: Progress) -> int:
        target = LocalFolder(folder)
        todo = self._missing(folder)
        num_todo = sum(map(len, todo))
        progress.start("export", len(self.rows), done=len(self.rows) - num_todo, unit="rows")
        for piece in todo:
            target.write(self.files(piece))
            progress.advance(len(piece))

        target.write(self.closing_files(folder))
        return num_todo

    def _missing(self, folder: Path) -> list[range]:
        """Return the pieces that lack a file."""
        found: set[str] = set()
        # Much faster than asking for each of a million files.
        for parent, _, names in os.walk(folder, onerror=refuse_unlisted):
            below = os.path.relpath(parent, folder)
            found.update(names if below == "." else (f"{below}/{name}" for name in names))
        return [piece for piece in self.pieces if not found.issuperset(self.names(piece))]
