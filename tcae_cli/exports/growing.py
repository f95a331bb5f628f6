"""Exports in one large file: it grows under another name, and resumes after its last whole row."""

import os
from pathlib import Path
from typing import BinaryIO, Protocol

from tcae_cli.images.partition import batches_of_rows
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime.files import disk_errors, open_no_link, rename_durably, start_writing_out


class GrowingFile(Protocol):
    """A file of a head, rows of equal size, and a tail."""

    @property
    def head(self) -> bytes:
        """The bytes before the first row."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""

    @property
    def rows_per_piece(self) -> int:
        """The number of rows that are encoded together."""

    def encode(self, piece: range) -> bytes:
        """Return the bytes of some rows."""

    def finish(self, file: BinaryIO) -> None:
        """Write the tail; the file can be read too, and its position is the end of the last row."""


def grow(path: Path, partial: Path, form: GrowingFile, num_rows: int, progress: Progress) -> int:
    """Write a file, under the name `partial` until it is whole; return the number of rows written."""
    if path.exists():
        progress.start("export", num_rows, done=num_rows, unit="rows")
        return 0
    with disk_errors(path):
        file = os.fdopen(open_no_link(partial, os.O_RDWR), "r+b")
    with file:
        num_done = _whole_rows(partial, file, form, num_rows)
        progress.start("export", num_rows, done=num_done, unit="rows")
        for piece in batches_of_rows(num_done, num_rows, form.rows_per_piece):
            data = form.encode(piece)
            with disk_errors(path):
                file.write(data)
                start_writing_out(file, len(data))
            progress.advance(len(piece))
        with disk_errors(path):
            form.finish(file)
    with disk_errors(path):
        rename_durably(partial, path)
    return num_rows - num_done


def _whole_rows(path: Path, file: BinaryIO, form: GrowingFile, num_rows: int) -> int:
    """Return how many rows an earlier run wrote in full; cut the file after them, and place it there."""
    head = form.head
    size = os.fstat(file.fileno()).st_size
    num_done = min(max(0, size - len(head)) // form.row_bytes, num_rows)
    with disk_errors(path):
        file.write(head)
        file.seek(len(head) + num_done * form.row_bytes)
        file.truncate()
    return num_done
