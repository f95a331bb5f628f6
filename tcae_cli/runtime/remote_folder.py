"""A Folder in an object store: an object is there, whole, once its upload ends; nothing is renamed."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tcae_cli.errors import DiskError, UsageError
from tcae_cli.runtime.processes import this_process
from tcae_cli.runtime.remote import open_filesystem, remote_errors

_PART_BYTES = 16 * 2**20  # of an upload; at most 10,000 parts, so an object may reach 160 GB
_READ_TOGETHER = 64
_CONFLICT = "ConditionalRequestConflict"  # S3's word for two who create one object at the same moment
_CONFLICT_WAITS_S = (0.1, 0.2, 0.4, 0.8)


class RemoteFolder:
    """Objects under a prefix of a bucket. Exclusive creation needs conditional writes: S3 and GCS have them."""

    def __init__(self, uri: str) -> None:
        if not uri.startswith(("s3://", "gs://")):
            raise UsageError(f"{uri}: a store is a local path, s3:// or gs://")
        self.uri, self.owner = uri.rstrip("/"), this_process()
        self._files, self._prefix = open_filesystem(self.uri)

    def read(self, name: str) -> bytes:
        with self._reading(name):
            data: bytes = self._files.cat_file(self._path(name))
            return data

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        for start in range(0, len(names), _READ_TOGETHER):
            paths = [self._path(name) for name in names[start : start + _READ_TOGETHER]]
            with self._reading(names[start]):
                found = self._files.cat_ranges(paths, [None] * len(paths), [None] * len(paths), on_error="return")
            for data in found:
                if isinstance(data, BaseException) and not isinstance(data, FileNotFoundError):
                    with self._reading(names[start]):
                        raise data
                yield data if isinstance(data, bytes) else None

    def read_range(self, name: str, start: int, size: int) -> bytes:
        path = self._path(name)
        with self._reading(name):
            # Some stores take a negative start for "from the end", not all.
            start = max(0, self._files.info(path)["size"] + start) if start < 0 else start
            data: bytes = self._files.cat_file(path, start=start, end=start + size)
            return data

    def sizes(self, prefix: str = "") -> dict[str, int]:
        with self._reading(prefix):
            try:
                found = self._files.find(self._path(prefix), detail=True)
            except FileNotFoundError:  # not even the bucket
                return {}
        skipped = len(self._prefix) + 1
        # The prefix itself comes as a folder where the first object under it is being written.
        return {path[skipped:]: int(entry["size"]) for path, entry in found.items() if entry["type"] == "file"}

    def modified(self, name: str) -> float:
        with self._reading(name):
            moment: float = self._files.modified(self._path(name)).timestamp()
            return moment

    def make(self) -> None:
        """Nothing: prefixes need not be made, and buckets belong to their owners."""

    def remove_if_empty(self) -> None:
        """Nothing: a prefix without objects is not there."""

    def write(self, *steps: Mapping[str, bytes]) -> None:
        for files in filter(None, steps):
            with self._writing(next(iter(files))):
                self._files.pipe({self._path(name): data for name, data in files.items()})

    def create(self, name: str, data: bytes) -> bool:
        with self._writing(name):
            for wait_s in _CONFLICT_WAITS_S:
                try:
                    self._files.pipe_file(self._path(name), data, mode="create")
                    return True
                except FileExistsError:
                    return False
                except OSError as error:
                    if _CONFLICT not in str(error):
                        raise
                time.sleep(wait_s)
            raise OSError("others create it at the same moment, again and again")

    def begin(self, name: str) -> "_Upload":
        with self._writing(name):
            return _Upload(self, name, self._files.open(self._path(name), "wb", block_size=_PART_BYTES))

    def put(self, path: Path, name: str) -> None:
        with self._writing(name):
            self._files.put_file(str(path), self._path(name))

    def fetch(self, prefix: str, scratch: Path) -> Path:
        target = scratch / Path(prefix).name
        with self._reading(prefix):
            self._files.get(self._path(prefix) + "/", str(target) + "/", recursive=True)
        return target

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            with self._writing(name), suppress(FileNotFoundError):
                self._files.rm_file(self._path(name))

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Turns what goes wrong into a DiskError, but not that it is not there."""
        try:
            with remote_errors():
                yield
        except FileNotFoundError:
            raise
        except OSError as error:
            sentence = f"{self._uri(name)} cannot be read: {_reason(error)}"
            raise DiskError(f"{sentence}; check your permissions and the network, and repeat") from error

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            with remote_errors():
                yield
        except OSError as error:
            sentence = f"{self._uri(name)} cannot be written: {_reason(error)}"
            raise DiskError(f"{sentence}; what is complete stays, put it right and repeat") from error

    def _uri(self, name: str) -> str:
        return f"{self.uri}/{name}" if name else self.uri

    def _path(self, name: str) -> str:
        return f"{self._prefix}/{name}" if name else self._prefix


class _Upload:
    """A FileInProgress as a multipart upload: invisible until it is completed."""

    def __init__(self, folder: RemoteFolder, name: str, file: Any) -> None:
        self._folder, self._name, self._file = folder, name, file

    def write(self, *pieces: bytes) -> None:
        with self._folder._writing(self._name):
            self._file.write(b"".join(pieces))

    def seal(self) -> None:
        """Nothing: what the store has taken is durable there."""

    def publish(self) -> None:
        with self._folder._writing(self._name):
            self._file.close()

    def discard(self) -> None:
        if not self._file.closed:
            with suppress(OSError), remote_errors():
                self._file.discard()
            self._file.closed = True  # or it would upload the rest when it is collected


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket"
    return str(error.strerror or error).rstrip(".")
