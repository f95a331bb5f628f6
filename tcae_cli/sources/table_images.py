"""Reads the images in a column of a table: their bytes, or the files that they name."""

import posixpath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from tcae_cli.errors import ImageError, SourceError
from tcae_cli.runtime.folder import Folder
from tcae_cli.sources.table_rows import NO_IMAGE


class TableImages:
    """The images of a column, binary or a struct of bytes and of the path that is used where these are missing."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._bytes: pa.ChunkedArray | None = column
        self._paths: pa.ChunkedArray | None = None
        if types.is_struct(column.type):
            self._bytes, self._paths = (
                pc.struct_field(column, name) if column.type.get_field_index(name) >= 0 else None
                for name in ("bytes", "path")
            )

    def read(self, row: int, folder: Folder, name: str) -> bytes:
        """Return the bytes of an image.

        folder, name: of the table's file; a path is relative to where it lies.
        Raises ImageError if there is no image, or its path leads out of the folder, and OSError if it cannot be read.
        """
        data: bytes | None = self._bytes[row].as_py() if self._bytes is not None else None
        if data is not None:
            return data
        path = self._paths[row].as_py() if self._paths is not None else None
        if not path:
            raise ImageError("read", NO_IMAGE)
        beside = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
        if beside.startswith(("/", "../")) or "://" in path:
            raise ImageError("read", f"the row has no bytes but a path, {path}, that leads out of the source")
        return folder.read(beside)


def unreadable(where: str, error: OSError) -> SourceError:
    """Return the error for a file of a table that cannot be opened any more."""
    if isinstance(error, FileNotFoundError):
        return SourceError(f"{where} no longer exists; put it back, and repeat the command")
    return SourceError(f"{where} cannot be read ({error.strerror or error}); put that right, and repeat the command")
