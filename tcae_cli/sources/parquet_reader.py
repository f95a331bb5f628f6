"""Reads the images of Parquet files, a row group at a time."""

from bisect import bisect
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tcae_cli.errors import ImageError, SourceError
from tcae_cli.sources.parquet_file import OpenParquet, file_beside, first_line
from tcae_cli.sources.registry import Access, Located, Place


class GroupReader:
    """Reads images of Parquet files; those of the row group that was read last stay in memory."""

    def __init__(self, located: Located) -> None:
        self._located = located
        self.access: Access = "group" if located.containers else "row"
        self._ends = [list(accumulate(group.num_rows for group in each.groups)) for each in located.containers]
        self._opened: OpenParquet | None = None
        self._number = -1  # of the open file
        self._group = -1  # of its row group that is in memory
        self._bytes: pa.ChunkedArray | None = None
        self._paths: pa.ChunkedArray | None = None  # beside the bytes, in case these are missing
        self._problem = ""  # why that row group cannot be read

    def read(self, place: Place) -> bytes:
        if place.container < 0:
            return self._located.folder.read(place.name)
        ends = self._ends[place.container]
        group = bisect(ends, place.offset)
        if (self._number, self._group) != (place.container, group):
            self._keep(place.container, group)
        if self._bytes is None:
            raise ImageError("read", self._problem)
        row = place.offset - (ends[group - 1] if group else 0)
        data = self._bytes[row].as_buffer()  # views the memory, which is copied once
        if data is not None:
            return bytes(data)
        path = self._paths[row].as_py() if self._paths is not None else None
        if not path:
            raise ImageError("read", "the row has no image")
        return self._located.folder.read(file_beside(self._located.containers[place.container].name, path))

    def _keep(self, number: int, group: int) -> None:
        """Read the images of a row group, in place of those of the last one."""
        self._bytes = None  # first, so that there is one group in memory and not two
        self._paths = None
        opened = self._open(number)
        self._group = group
        try:
            images = opened.file.read_row_group(group, columns=[self._located.image_column]).column(0)
        except (pa.ArrowException, OSError) as error:
            name = self._located.containers[number].name
            self._problem = f"row group {group} of {name} cannot be read ({first_line(error)})"
            return
        if not pa.types.is_struct(images.type):
            self._bytes = images
            return
        self._bytes = pc.struct_field(images, "bytes")
        if images.type.get_field_index("path") >= 0:
            self._paths = pc.struct_field(images, "path")

    def _open(self, number: int) -> OpenParquet:
        """Return a file, opened. Raises SourceError if it is not there, or not as it was indexed."""
        if self._opened is not None and self._number == number:
            return self._opened
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        container = self._located.containers[number]
        opened = OpenParquet(self._located.folder, container.name, self._local_copy(container.name))
        if opened.groups(self._located.image_column) != container.groups:
            opened.close()
            raise SourceError(f"{opened.where} has changed since it was indexed; repeat the command, or put it back")
        self._opened = opened
        self._number = number
        return opened

    def _local_copy(self, name: str) -> Path | None:
        """Return a copy of a file of the Hugging Face Hub in the cache of its client; None for other files."""
        uri = self._located.folder.uri.rstrip("/")
        if not uri.startswith("hf://datasets/"):
            return None
        from tcae_cli.runtime.hub import fetch

        return fetch(f"{uri}/{name}")
