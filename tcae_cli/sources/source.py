"""Provides a source of images: an ordered, countable list of samples with stable keys, read by row."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from tcae_cli.errors import ImageError, SourceError
from tcae_cli.reports.failure import REPAIRED, REPAIRED_STAGE
from tcae_cli.runtime.folder import Folder, open_to_read
from tcae_cli.runtime.remote import is_remote
from tcae_cli.sources.files import FileReader
from tcae_cli.sources.index import IMAGE_SIZES, fetch_index, read_summary
from tcae_cli.sources.index_column import SUMMARY_FILE, IndexColumn, damaged
from tcae_cli.sources.listing import Container, Entry
from tcae_cli.sources.registry import KINDS, Access, Place, Reader


class Source:
    """Samples 0 ... len - 1, the same in every process and every run; pickles as the folder of its index.

    Raises SourceError if there is no index in the folder, or if it is damaged.
    """

    def __init__(self, index_dir: Path) -> None:
        self.index_dir = Path(index_dir)
        summary = read_summary(self.index_dir)
        self.uri: str = summary["uri"]
        self.class_names: tuple[str, ...] = tuple(summary["class_names"])  # of labels 0, 1, ...; () if not known
        self.fingerprint: str = summary["fingerprint"]  # hex; of keys and sizes in row order
        self.has_captions: bool = summary["has_captions"]
        self.passed_over: dict[str, int] = summary["passed_over"]  # files that are not images, by suffix
        self.remarks: tuple[str, ...] = tuple(summary["remarks"])  # sentences on what else the scan did not use
        self.disagreements: tuple[str, ...] = tuple(summary["disagreements"])  # of places that state labels or captions
        self.labels_from: dict[str, int] = summary["labels_from"]  # labelled rows by the place that states the label
        self.captions_from: dict[str, int] = summary["captions_from"]
        self.is_remote = is_remote(summary["root"])
        self.folder = open_to_read(summary["root"])
        self.containers: Sequence[Container] = summary["containers"]
        self.image_column: str = summary["image_column"]
        self._checksums: dict[str, list[int]] = summary["checksums"]  # of the columns, by name
        self._maps: list[IndexColumn] = []
        self._labels = self._map("labels", np.int64)
        self._sizes = self._map("sizes", np.int64)
        self._keys = self._strings("keys")
        self._captions = self._strings("captions") if self.has_captions else None
        self.has_problems: bool = summary["has_problems"]
        self._problems = self._strings("problems") if self.has_problems else None
        self._containers = self._map("tars", np.int32)
        self._offsets = self._map("offsets", np.int64)
        self._kind: str = summary["kind"]
        if self._kind not in KINDS:
            raise damaged(self.index_dir / SUMMARY_FILE, f"there is no kind {self._kind} of sources")

    def __reduce__(self) -> tuple[type["Source"], tuple[Path]]:
        return type(self), (self.index_dir,)

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def access(self) -> Access:
        """How rows are read: each by itself, in groups, or front to back alone."""
        return self._reader.access

    @cached_property
    def _reader(self) -> Reader:
        # Made when it is needed: workers that get their files from another process need not import its library.
        return KINDS[self._kind]().reader(self)

    @cached_property
    def image_sizes(self) -> np.ndarray | None:
        """Return the height and width of every image, upright, in pixels, [n, 2], int32, as the index has them.

        They are those of the header when the row was first listed, 0 where it could not be read; None if the index has
        none.
        """
        if IMAGE_SIZES[0] not in self._checksums:
            return None
        return np.stack([self._map(name, np.int32)[:] for name in IMAGE_SIZES], axis=1)

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
        return self._captions[row].decode(errors="replace") if self._captions else ""

    def problem(self, row: int) -> str:
        """Return why a sample cannot be read, "" if the scan found no reason."""
        return self._problems[row].decode(errors="replace") if self._problems else ""

    def size_bytes(self, row: int) -> int:
        """Return the bytes of a sample's file when it was scanned; 0 if unknown."""
        return int(self._sizes[row])

    def entries(self) -> Iterator[Entry]:
        """Yield every row of the index, in order."""
        columns = (self._sizes, self._labels, self._containers, self._offsets)
        for row, (size_bytes, label, number, offset) in enumerate(zip(*(c[:].tolist() for c in columns), strict=True)):
            key = os.fsdecode(self._keys[row])
            yield Entry(key, size_bytes, label, self.caption(row), number, offset, self.problem(row))

    def groups(self) -> list[range]:
        """Return runs of rows that are best read together and in order: row groups of a table, the rows of a tar."""
        changes = np.flatnonzero(np.diff(self._containers[:])) + 1
        found = []
        for start, stop in pairwise([0, *changes.tolist(), len(self)]):  # the rows of a container
            number = self._containers[start]
            groups = self.containers[number].groups if number >= 0 else ()
            ends = np.cumsum([group.num_rows for group in groups])
            of_group = (
                np.searchsorted(ends, self._offsets[start:stop], side="right") if groups else np.zeros(stop - start)
            )
            bounds = [start, *(np.flatnonzero(np.diff(of_group)) + start + 1).tolist(), stop]
            found += [range(*bound) for bound in pairwise(bounds)]
        return found

    def read(self, row: int) -> bytes:
        """Read the bytes of a sample's file as they are now.

        Raises ImageError("read") if they cannot be read, ImageError("index" or REPAIRED_STAGE) if the scan found a
        problem, and SourceError if a whole container cannot be read, or only front to back.
        """
        if self.access == "stream":
            raise SourceError(f"{self.uri} is compressed, and is read front to back; decompress it to read any row")
        return self._read(row)

    def read_start(self, row: int, num_bytes: int) -> bytes:
        """Read so many bytes from the start of a sample's file, fewer where it is shorter; raises as `read` does.

        All of it is read where a source gives whole files alone.
        """
        reader = self._reader
        if not isinstance(reader, FileReader):
            return self.read(row)
        return self._read(row, lambda place: reader.read_start(place, num_bytes))

    def read_many(self, rows: Sequence[int]) -> Iterator[bytes | ImageError]:
        """Yield the bytes or the error of each row, in order; from a remote store, several are read ahead at once.

        A source that is not read by row is read in the order of its rows: then these are held until they are asked for.
        """
        if self.access == "row":
            return self.folder.in_order(self._read_or_error, rows)
        ascending = sorted(rows)
        if ascending == list(rows):
            return map(self._read_or_error, rows)
        found = {row: self._read_or_error(row) for row in ascending}
        return map(found.__getitem__, rows)

    def release(self) -> None:
        """Free the memory of the index of the rows asked for so far: a map keeps every page that was read."""
        for table in self._maps:
            table.release()

    def _read_or_error(self, row: int) -> bytes | ImageError:
        try:
            return self._read(row)
        except ImageError as error:
            return error

    def _read(self, row: int, read: Callable[[Place], bytes] | None = None) -> bytes:
        if problem := self.problem(row):
            raise ImageError(REPAIRED_STAGE if problem == REPAIRED else "index", problem)
        container = int(self._containers[row])
        if container >= len(self.containers):
            raise damaged(self.index_dir / "tars.npy", f"it names file {container:,} of {len(self.containers):,}")
        place = Place(os.fsdecode(self._keys[row]), self.size_bytes(row), container, int(self._offsets[row]))
        try:
            return (read or self._reader.read)(place)
        except OSError as error:
            raise ImageError("read", error.strerror or str(error)) from error

    def _strings(self, name: str) -> "_Strings":
        ends = self._read_column(f"{name}.ends", np.int64)
        blob = self._read_column(f"{name}.blob", np.uint8)
        if len(ends) != len(self) + 1 or ends[-1] != len(blob):
            raise damaged(self.index_dir / f"{name}.ends.npy", f"it does not fit {name}.blob.npy and labels.npy")
        return _Strings(ends, blob)

    def _map(self, name: str, dtype: type[np.generic]) -> IndexColumn:
        """Map a column that has one value for each row."""
        column = self._read_column(name, dtype)
        if len(column) != len(self._maps[0]):
            raise damaged(self.index_dir / f"{name}.npy", f"it has {len(column):,} rows, not {len(self):,}")
        return column

    def _read_column(self, name: str, dtype: type[np.generic]) -> IndexColumn:
        column = IndexColumn(self.index_dir / f"{name}.npy", dtype, self._checksums.get(name))
        self._maps.append(column)
        return column


def open_index(folder: Folder, name: str, scratch: Path) -> "Source":
    """Open the source whose index a store keeps in a folder of this name, copied below `scratch` if it is remote.

    Raises SourceError if the index is missing or damaged.
    """
    if (index := fetch_index(folder, name, scratch)) is None:
        raise SourceError(f"{folder.uri}/{name} holds no index of a source; tcae verify {folder.uri} says what else")
    return Source(index)


class _Strings:
    """Many byte strings in one mapped blob."""

    def __init__(self, ends: IndexColumn, blob: IndexColumn) -> None:
        self._ends = ends
        self._blob = blob

    def __getitem__(self, row: int) -> bytes:
        if not 0 <= row < len(self._ends) - 1:
            raise IndexError(row)
        start, stop = self._ends[row : row + 2].tolist()
        found: bytes = self._blob[start:stop].tobytes()
        return found
