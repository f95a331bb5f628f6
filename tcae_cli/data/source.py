"""A source of images: an ordered, countable list of samples with stable keys, read by row."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tcae_cli.data import folder, image_list, tar_shards
from tcae_cli.data.index import INDEX_VERSION, SUMMARY_FILE, Listing, write_index
from tcae_cli.errors import ImageError, NotFoundError, SourceError


def open_source(uri: str, index_dir: Path) -> "Source":
    """The source at `uri`, scanned now, its index written into `index_dir`.

    uri: a folder of images, one tar or a brace pattern of tars ("shards/{000..127}.tar"), or an image list (*.txt).
    Raises NotFoundError if nothing is there, SourceError if it cannot be used.
    """
    try:
        listing = _scan(uri)
    except NotFoundError:  # an OSError too, with its own sentence
        raise
    except OSError as error:
        found = f"{error.filename or uri} cannot be read ({error.strerror})"
        raise SourceError(f"{found}; check its permissions, or move it away") from error
    write_index(index_dir, listing)
    return Source(index_dir)


def load_source(index_dir: Path) -> "Source":
    """The source whose index lies in `index_dir`; nothing is scanned. Raises SourceError if no index is there."""
    return Source(index_dir)


def _scan(uri: str) -> Listing:
    path = Path(uri)
    if "://" in uri:
        raise SourceError(f"{uri} is remote; copy it here first: a source is a local folder, tar or image list")
    if path.is_dir():
        return folder.scan(uri)
    if path.suffix.lower() == ".tar":
        return tar_shards.scan(uri)
    if not path.exists():
        raise NotFoundError(f"{uri} does not exist; give a folder of images, tar shards or an image list")
    if path.suffix.lower() == ".txt":
        return image_list.scan(uri)
    raise SourceError(f"{uri} is neither a folder of images, nor a .tar, nor an image list ending in .txt; give one")


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
        self._root = Path(summary["root"])
        self._tar_paths = [Path(path) for path in summary["tar_paths"]]
        self._labels, self._sizes = self._map("labels"), self._map("sizes")
        self._keys = _Strings(self._map("keys.ends"), self._map("keys.blob"))
        self._captions = _Strings(self._map("captions.ends"), self._map("captions.blob")) if self.has_captions else None
        self._tars, self._offsets = self._map("tars"), self._map("offsets")

    def __reduce__(self) -> tuple[type["Source"], tuple[Path]]:
        return type(self), (self.index_dir,)

    def __len__(self) -> int:
        return len(self._labels)

    def key(self, row: int) -> str:
        """Name of a sample: a path relative to the source, or tar name and member; bytes that are not UTF-8 escaped."""
        return self._keys[row].decode(errors="backslashreplace")

    def keys(self, rows: Iterable[int]) -> list[str]:
        """Names of samples, in the order asked for."""
        return [self.key(row) for row in rows]

    def label(self, row: int) -> int:
        """Class number of a sample, -1 if it has none."""
        return int(self._labels[row])

    def labels(self, start: int, stop: int) -> np.ndarray:
        """Class numbers of rows start ... stop - 1, [stop - start], int64."""
        return np.array(self._labels[start:stop])

    def caption(self, row: int) -> str:
        """Caption of a sample, "" if it has none."""
        return self._captions[row].decode() if self._captions else ""

    def size_bytes(self, row: int) -> int:
        """Size of a sample's file when it was scanned."""
        return int(self._sizes[row])

    def read(self, row: int) -> bytes:
        """The bytes of a sample's file as they are now; raises ImageError("read") if they cannot be had."""
        # Opened for each read: about 1 % of what decoding costs, and no handle to share between processes.
        try:
            if self._tars[row] < 0:
                return (self._root / os.fsdecode(self._keys[row])).read_bytes()
            path = self._tar_paths[self._tars[row]]
            return tar_shards.read_member(path, int(self._offsets[row]), self.size_bytes(row))
        except OSError as error:
            raise ImageError("read", error.strerror or str(error)) from error

    def _map(self, name: str) -> np.ndarray:
        array: np.ndarray = np.load(self.index_dir / f"{name}.npy", mmap_mode="r")
        return array


class _Strings:
    """Many byte strings in one mapped blob."""

    def __init__(self, ends: np.ndarray, blob: np.ndarray) -> None:
        self._ends, self._blob = ends, blob

    def __getitem__(self, row: int) -> bytes:
        if not 0 <= row < len(self._ends) - 1:
            raise IndexError(row)
        return self._blob[self._ends[row] : self._ends[row + 1]].tobytes()
