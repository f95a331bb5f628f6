"""Reads files that are compressed with gzip or zstd, front to back."""

import gzip
import io
import os
import tarfile
import threading
import weakref
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO

from tcae_cli.errors import ImageError
from tcae_cli.sources.files import FileReader, shown_name, too_short
from tcae_cli.sources.registry import Access, Located, Place

_CHUNK_BYTES = 1 << 14  # what damage may take with it, of what lies before it
_BEHIND_BYTES = tarfile.BLOCKSIZE  # kept of what was read


def compression_of(file: BinaryIO) -> str:
    """Return "gzip" or "zstd" for a file that begins as these do, otherwise ""; the file is at its start again."""
    start = file.read(4)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return "gzip"
    # A zstd file may begin with a frame to be skipped, as pzstd writes it.
    is_skippable = start[1:] == b"\x2a\x4d\x18" and start[0] >> 4 == 5
    return "zstd" if start == b"\x28\xb5\x2f\xfd" or is_skippable else ""


class Decompressed:
    """The contents of a compressed file, as a file that is read front to back and goes back by one block of a tar.

    Where the compressed data is damaged or cut short the contents end, with a problem. Other errors in reading the file
    are raised, once.
    """

    def __init__(self, file: BinaryIO, compression: str) -> None:
        self.problem = ""  # why the contents end before their end; "": they do not
        self._chunks = (_gzip_chunks if compression == "gzip" else _zstd_chunks)(file)
        self._kept = b""
        self._kept_from = 0
        self._position = 0

    def tell(self) -> int:
        """Return the position in the contents, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte by reading on, or to the end if that comes before; return the position.

        Raises UnsupportedOperation for a byte that lies more than a block back.
        """
        if whence == os.SEEK_SET and offset < self._kept_from:
            raise io.UnsupportedOperation(f"byte {offset} of a compressed file lies behind")
        end = self._kept_from + len(self._kept)
        while (whence == os.SEEK_END or end < offset) and (chunk := self._next_chunk()):
            self._keep(self._kept + chunk, end)
            end += len(chunk)
        self._position = end if whence == os.SEEK_END else min(offset, end)
        return self._position

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer where the contents end."""
        pieces = [self._kept]
        end = self._kept_from + len(self._kept)
        while end < self._position + size and (chunk := self._next_chunk()):
            pieces.append(chunk)
            end += len(chunk)
        kept = b"".join(pieces)
        start = self._position - self._kept_from
        data = kept[start : start + size]
        self._position += len(data)
        self._keep(kept, self._position)
        return data

    def _keep(self, contents: bytes, position: int) -> None:
        """Keep what follows a position, and a block before it; contents: from the byte on that was kept first."""
        num_dropped = max(0, position - _BEHIND_BYTES - self._kept_from)
        self._kept = contents[num_dropped:]
        self._kept_from += num_dropped

    def _next_chunk(self) -> bytes:
        """Return the next part of the contents, b"" at the end."""
        try:
            return next(self._chunks, b"")
        except (EOFError, zlib.error) as error:
            self.problem = str(error)
        except OSError as error:
            self.problem = error.strerror or str(error)
            if error.errno is not None:  # of the file, not of its decompression
                raise
        return b""


class FrontToBackReader:
    """Reads images of tars, some of which are compressed: an image ahead by reading on, others by opening a tar again.

    One compressed tar is open at a time, and no more of it is held than a chunk and an image.
    """

    access: Access = "stream"

    def __init__(self, located: Located) -> None:
        self._located = located
        self._not_compressed = FileReader(located)
        self._number = -1
        self._contents: Decompressed | None = None
        self._opened = ExitStack()
        self._lock = threading.Lock()
        weakref.finalize(self, self._opened.close)

    def read(self, place: Place) -> bytes:
        container = self._located.containers[place.container]
        if place.container < 0 or not container.compression:
            return self._not_compressed.read(place)
        with self._lock:  # a thread that reads ahead for nobody any more may not have ended
            try:
                contents, data = self._read(place)
            except OSError:
                self._close()
                contents, data = self._read(place)  # a connection may break in the hours that a large tar takes
        if len(data) == place.size_bytes:
            return data
        if not contents.problem:
            raise too_short(self._located, place)
        name = shown_name(self._located, place)
        where = f"byte {contents.tell():,} of its contents"
        raise ImageError("read", f"{name} cannot be decompressed beyond {where} ({contents.problem}); copy it again")

    def _read(self, place: Place) -> tuple[Decompressed, bytes]:
        if self._contents is None or self._number != place.container or place.offset < self._contents.tell():
            self._close()
            container = self._located.containers[place.container]
            file = self._opened.enter_context(self._located.folder.open(container.name))
            self._contents = Decompressed(file, container.compression)
            self._number = place.container
        self._contents.seek(place.offset)
        return self._contents, self._contents.read(place.size_bytes)

    def _close(self) -> None:
        self._contents = None
        self._opened.close()


def _gzip_chunks(file: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as contents:
        while chunk := contents.read1(_CHUNK_BYTES):
            yield chunk


def _zstd_chunks(file: BinaryIO) -> Iterator[bytes]:
    import pyarrow

    source: Any = pyarrow.PythonFile(file, mode="r")
    with pyarrow.CompressedInputStream(source, "zstd") as contents:
        while chunk := contents.read(_CHUNK_BYTES):
            yield chunk
