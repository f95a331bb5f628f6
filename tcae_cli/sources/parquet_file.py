"""Opens Parquet files wherever they lie, and describes their row groups."""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tcae_cli.errors import ImageError, SourceError
from tcae_cli.runtime.folder import Folder
from tcae_cli.sources.listing import Group
from tcae_cli.sources.locations import without_query

_ROWS_OF_A_PIECE = 16
_BUFFER_BYTES = 1 << 20  # of a column as it is read; otherwise all of it would be in memory twice


class OpenParquet:
    """An open Parquet file."""

    def __init__(
        self, folder: Folder, name: str, local: Path | None = None, read_ahead_bytes: int | None = None
    ) -> None:
        """Open a file.

        local: a copy of the file on this machine, to be read in its place.
        read_ahead_bytes: as for Folder.open.
        Raises SourceError if it is not Parquet, or damaged, and OSError if it cannot be read.
        """
        self.name = without_query(folder.uri, name)
        self.where = f"{folder.uri.rstrip('/')}/{self.name}"
        self._opened = ExitStack()
        weakref.finalize(self, self._opened.close)
        stream: Any = self._opened.enter_context(local.open("rb") if local else folder.open(name, read_ahead_bytes))
        try:
            self.file = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            self.close()
            raise_unless_damaged(error)
            raise SourceError(
                f"{self.where} is not a Parquet file, or has lost its footer ({first_line(error)}); copy it again"
            ) from error

    def __enter__(self) -> "OpenParquet":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def read_group(self, number: int, columns: Sequence[str]) -> pa.Table:
        """Return columns of a row group. Raises ImageError if it is damaged, OSError if it cannot be read."""
        with self._reading(number):
            return self.file.read_row_group(number, columns=list(columns), use_threads=False)

    def read_images(self, number: int, column: str) -> pa.ChunkedArray:
        """Return the images of a row group; raises as read_group does."""
        with self._reading(number):
            # In one piece, Arrow would grow a buffer for all of them, and copy it as it grows.
            pieces = self.file.iter_batches(_ROWS_OF_A_PIECE, row_groups=[number], columns=[column], use_threads=False)
            return pa.chunked_array([piece.column(0) for piece in pieces])

    @contextmanager
    def _reading(self, number: int) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise_unless_damaged(error)
            raise ImageError("read", f"row group {number} of {self.name} is damaged ({first_line(error)})") from error

    def close(self) -> None:
        """Close the file."""
        self._opened.close()


def raise_unless_damaged(error: Exception) -> None:
    """Raise an error again that is the system's or the network's, and not about what a file holds."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
