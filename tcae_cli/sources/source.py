"""Provides a source of images: an ordered, countable list of samples with stable keys, read by row."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from mmap import MADV_DONTNEED, mmap
from pathlib import Path

import numpy as np

from tcae_cli.errors import ImageError, NotFoundError, SourceError
from tcae_cli.runtime.folder import open_to_read
from tcae_cli.runtime.remote import is_remote
from tcae_cli.sources.index import INDEX_VERSION, SUMMARY_FILE, Entry, Listing, ignore, write_index
from tcae_cli.sources.registry import KINDS, source_words


def open_source(uri: str, index_dir: Path) -> "Source":
    """Scan the source at `uri`, write its index into `index_dir`, and open it. For `uri` and errors, see scan."""
    write_index(index_dir, scan(uri))
    return Source(index_dir)


def load_source(index_dir: Path) -> "Source":
    """Open the source whose index lies in `index_dir`, without a scan. Raises SourceError if there is no index."""
    return Source(index_dir)


def scan(uri: str, on_progress: Callable[[int], None] = ignore) -> Listing:
    """List every sample at `uri`, in the order of a new index.

    uri: a folder of images, one tar or a brace pattern of tars ("shards/{000..127}.tar"), or an image list (*.txt); a
    local path or s3://, gs://, hf:// or http(s)://, over which folders cannot be listed.
    on_progress: called now and then with the number of images, or of files in a folder, found so far.
    Raises NotFoundError if nothing is at `uri`, SourceError if it cannot be used.
    """
    if uri.startswith("pipe:"):
        raise SourceError(f"{uri} is a command, and images are read by position; give its tars as paths or URLs")
    kind = next((kind for kind in (make() for make in KINDS.values()) if kind.recognises(uri)), None)
    if kind is None and not os.path.exists(uri):
        raise NotFoundError(f"{uri} does not exist; give {source_words()}")
    if kind is None:
        raise SourceError(f"{uri} is not a source of images; give {source_words()}")
    try:
        return kind.scan(uri, on_progress)
    except NotFoundError:  # an OSError too, with its own sentence
        raise
    except OSError as error:
        found = f"{error.filename or uri} cannot be read ({error.strerror or error})"
        if not is_remote(str(error.filename or uri)):
            raise SourceError(f"{found}; check its permissions, or move it away") from error
        if isinstance(error, FileNotFoundError):
            raise NotFoundError(f"{error.filename or uri} does not exist; correct {uri}") from error
        raise SourceError(f"{found}; check the name, your credentials and the network") from error


class Source:
    """Samples 0 ... len - 1, the same in every process and every run; pickles as the folder of its index."""

    def __init__(self, index_dir: Path) -> None:
        self.index_dir = Path(index_dir)
        try:
            summary = json.loads((self.index_dir / SUMMARY_FILE).read_bytes())
        except OSError as error:
            raise SourceError(
                f"{index_dir} holds no index of a source ({error.strerror}); open the source again"
            ) from error
        if summary["index_version"] != INDEX_VERSION:
            raise SourceError(f"{index_dir} was made by another version of tcae; remove it and open the source again")
        self.uri: str = summary["uri"]
        self.class_names: tuple[str, ...] = tuple(summary["class_names"])  # of labels 0, 1, ...; () if not known
        self.fingerprint: str = summary["fingerprint"]  # hex; of keys and sizes in row order
        self.has_captions: bool = summary["has_captions"]
        self.is_remote = is_remote(summary["root"])
        self._folder = open_to_read(summary["root"])
        self._tar_names = summary["tar_names"]
        self._maps: list[np.ndarray] = []
        self._labels = self._map("labels")
        self._sizes = self._map("sizes")
        self._keys = self._strings("keys")
        self._captions = self._strings("captions") if self.has_captions else None
        self._problems = self._strings("problems") if summary["has_problems"] else None
        self._tars = self._map("tars")
        self._offsets = self._map("offsets")

    def __reduce__(self) -> tuple[type["Source"], tuple[Path]]:
        return type(self), (self.index_dir,)

    def __len__(self) -> int:
        return len(self._labels)

    def key(self, row: int) -> str:
        """Return the key of a sample: its path in the source, or tar and member name; non-UTF-8 bytes escaped."""
        return self._keys[row].decode(errors="backslashreplace")

    def keys(self, rows: Iterable[int]) -> list[str]:
        """Return the keys of samples, in the order asked for."""
        return [self.key(row) for row in rows]

    def label(self, row: int) -> int:
        """Return the class number of a sample, -1 if it has none."""
        return int(self._labels[row])

    def labels(self, start: int, stop: int) -> np.ndarray:
        """Return the class numbers of rows start ... stop - 1, [stop - start], int64."""
        return np.array(self._labels[start:stop])

    def caption(self, row: int) -> str:
        """Return the caption of a sample, "" if it has none."""
        return self._captions[row].decode() if self._captions else ""

    def problem(self, row: int) -> str:
        """Return why a sample cannot be read, "" if the scan found no reason."""
        return self._problems[row].decode() if self._problems else ""

    def size_bytes(self, row: int) -> int:
        """Return the bytes of a sample's file when it was scanned; 0 if unknown."""
        return int(self._sizes[row])

    def entries(self) -> Iterator[Entry]:
        """Yield every row of the index, in order."""
        columns = (self._sizes, self._labels, self._tars, self._offsets)
        for row, (size_bytes, label, tar, offset) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
            key = os.fsdecode(self._keys[row])
            yield Entry(key, size_bytes, label, self.caption(row), tar, offset, self.problem(row))

    def read(self, row: int) -> bytes:
        """Read the bytes of a sample's file as they are now.

        Raises ImageError("read") if they cannot be read, ImageError("index") if the scan found a problem.
        """
        if problem := self.problem(row):
            raise ImageError("index", problem)
        # The file is opened for each read: about 1 % of the cost of decoding, and processes share no handle.
        try:
            if self._tars[row] < 0:
                return self._folder.read(os.fsdecode(self._keys[row]))
            tar_name = self._tar_names[self._tars[row]]
            size_bytes = self.size_bytes(row)
            data = self._folder.read_range(tar_name, int(self._offsets[row]), size_bytes)
        except OSError as error:
            raise ImageError("read", error.strerror or str(error)) from error
        if len(data) < size_bytes:
            raise ImageError("read", f"{os.path.basename(tar_name)} is shorter than when it was indexed")
        return data

    def read_many(self, rows: Sequence[int]) -> Iterator[bytes | ImageError]:
        """Yield the bytes or the error of each row, in order; from a remote store, several are read ahead at once."""
        return self._folder.in_order(self._read_or_error, rows)

    def release(self) -> None:
        """Free the memory of the index of the rows asked for so far: a map keeps every page that was read."""
        for table in self._maps:
            if isinstance(table.base, mmap):
                table.base.madvise(MADV_DONTNEED)

    def _read_or_error(self, row: int) -> bytes | ImageError:
        try:
            return self.read(row)
        except ImageError as error:
            return error

    def _strings(self, name: str) -> "_Strings":
        return _Strings(self._map(f"{name}.ends"), self._map(f"{name}.blob"))

    def _map(self, name: str) -> np.ndarray:
        array: np.ndarray = np.load(self.index_dir / f"{name}.npy", mmap_mode="r")
        self._maps.append(array)
        return array


class _Strings:
    """Many byte strings in one mapped blob."""

    def __init__(self, ends: np.ndarray, blob: np.ndarray) -> None:
        self._ends = ends
        self._blob = blob

    def __getitem__(self, row: int) -> bytes:
        if not 0 <= row < len(self._ends) - 1:
            raise IndexError(row)
        return self._blob[self._ends[row] : self._ends[row + 1]].tobytes()
