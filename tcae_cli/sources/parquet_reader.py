"""Reads the images of Parquet files, a row group at a time."""

from bisect import bisect
from itertools import accumulate
from pathlib import Path
from threading import Lock

from tcae_cli.errors import ImageError, SourceError
from tcae_cli.sources.locations import without_query
from tcae_cli.sources.parquet_file import OpenParquet
from tcae_cli.sources.registry import Access, Located, Place
from tcae_cli.sources.table_images import TableImages, unreadable


class GroupReader:
    """Reads images of Parquet files; those of the row group that was read last stay in memory."""

    access: Access = "group"

    def __init__(self, located: Located) -> None:
        self._located = located
        self._ends = [list(accumulate(group.num_rows for group in each.groups)) for each in located.containers]
        self._opened: OpenParquet | None = None
        self._number = -1  # of the open file
        self._kept = -1, -1  # the numbers of a file and of its row group that was read last
        self._images: TableImages | None = None  # of that row group
        self._problem = ""  # why that row group cannot be read; "": it can
        self._lock = Lock()

    def read(self, place: Place) -> bytes:
        with self._lock:  # evaluation reads reconstructions in threads, and one that reads ahead may not have ended
            return self._read(place)

    def _read(self, place: Place) -> bytes:
        ends = self._ends[place.container]
        group = bisect(ends, place.offset)
        if self._kept != (place.container, group):
            self._keep(place.container, group)
        if self._images is None:
            raise ImageError("read", self._problem)
        container = self._located.containers[place.container]
        row = place.offset - (ends[group - 1] if group else 0)
        return self._images.read(row, self._located.folder, container.name)

    def _keep(self, number: int, group: int) -> None:
        """Read the images of a row group, in place of those of the last one."""
        self._images = None  # first, so that there is one group in memory and not two
        self._kept = -1, -1
        opened = self._open(number)
        column = self._located.image_column
        try:
            try:
                self._images = TableImages(opened.read_images(group, column))
            except OSError:
                # A connection may break in the hours that a source takes, and all rows of the group would fail.
                self._images = TableImages(opened.read_images(group, column))
        except (ImageError, OSError) as error:
            self._problem = str(error)
        self._kept = number, group

    def _open(self, number: int) -> OpenParquet:
        """Return a file, opened. Raises SourceError if it is not there, or not as it was indexed."""
        if self._opened is not None and self._number == number:
            return self._opened
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        container = self._located.containers[number]
        folder = self._located.folder
        where = f"{folder.uri.rstrip('/')}/{without_query(folder.uri, container.name)}"
        try:
            opened = OpenParquet(folder, container.name, self._local_copy(container.name))
        except OSError as error:
            raise unreadable(where, error) from error
        if opened.groups(self._located.image_column) != container.groups:
            opened.close()
            raise SourceError(f"{where} has changed since it was indexed; put it back, or repeat the command")
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
