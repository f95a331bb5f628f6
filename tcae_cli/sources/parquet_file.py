"""Opens Parquet files wherever they lie, and describes their row groups."""

import posixpath
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tcae_cli.errors import SourceError
from tcae_cli.runtime.folder import Folder
from tcae_cli.sources.listing import Group

_BUFFER_BYTES = 1 << 20  # of a column as it is read; otherwise all of it would be in memory twice


class OpenParquet:
    """An open Parquet file. Raises SourceError, with a sentence, if it is missing or cannot be used."""

    def __init__(
        self, folder: Folder, name: str, local: Path | None = None, read_ahead_bytes: int | None = None
    ) -> None:
        """local: a copy of the file on this machine, to be read in its place; read_ahead_bytes: as for Folder.open."""
        self.where = f"{folder.uri.rstrip('/')}/{name}"
        self._opened = ExitStack()
        weakref.finalize(self, self._opened.close)
        try:
            stream: Any = self._opened.enter_context(local.open("rb") if local else folder.open(name, read_ahead_bytes))
            self.file = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES)
        except FileNotFoundError as error:
            raise SourceError(f"{self.where} does not exist; put it back, or correct the name of the source") from error
        except pa.ArrowException as error:
            self._opened.close()
            raise SourceError(
                f"{self.where} is not a Parquet file, or has lost its footer ({first_line(error)}); copy it again"
            ) from error

    def groups(self, column: str) -> tuple[Group, ...]:
        """Return the row groups; their stamps are from the sizes of a column, which the footer has."""
        metadata = self.file.metadata
        found = []
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            parts = [group.column(leaf) for leaf in range(group.num_columns)]
            sizes = [
                f"{part.num_values}/{part.total_uncompressed_size}/{part.total_compressed_size}"
                for part in parts
                if part.path_in_schema == column or part.path_in_schema.startswith(f"{column}.")
            ]
            found.append(Group(group.num_rows, "+".join(sizes)))
        return tuple(found)

    def close(self) -> None:
        """Close the file."""
        self._opened.close()


def file_beside(name: str, path: str) -> str:
    """Return the name of a file whose path is relative to that of a Parquet file, both below the source's root.

    Raises SourceError if it lies outside.
    """
    found = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
    if found.startswith(("/", "../")):
        raise SourceError(f"{name} names {path}, which lies outside of its folder; move it there")
    return found


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
