"""A Folder in a remote store: an object exists, whole, once its upload ends; nothing is renamed."""

import errno
import io
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from tcae_cli.errors import DiskError, UsageError
from tcae_cli.runtime.local_folder import no_check
from tcae_cli.runtime.processes import this_process
from tcae_cli.runtime.remote import (
    NUM_READS,
    RemoteFile,
    RemoteReadError,
    open_filesystem,
    read_error,
    remote_errors,
)
from tcae_cli.runtime.threads import in_threads

if TYPE_CHECKING:
    from tcae_cli.runtime.folder import Ranges

_PART_BYTES = 16 * 2**20  # of an upload; at most 10,000 parts, so an object may reach 160 GB
_READ_TOGETHER = 64
READ_AHEAD_BYTES = 4 << 20
_CONFLICT = "ConditionalRequestConflict"  # S3's error code where two clients create one object at the same moment
_CONFLICT_WAITS_S = (0.1, 0.2, 0.4, 0.8)

Item = TypeVar("Item")
Result = TypeVar("Result")


class RemoteFolder:
    """Objects under a prefix of a bucket, or files below a URL.

    Written are s3:// and gs:// alone: exclusive creation needs conditional writes, which S3 and GCS have.
    """

    most_open = sys.maxsize  # nothing is kept open
    keeps_opened = False
    _num_attempts = 2  # at reading a part of an open file

    def __init__(self, uri: str) -> None:
        self.uri = uri if uri.endswith("://") else uri.rstrip("/")
        self.owner = this_process()
        self._root = uri if uri.endswith("/") else f"{uri}/"
        # fsspec's name of it, which url_to_fs would cut at the end: HTTP's files keep their protocol, others do not.
        self._prefix = self._root if uri.startswith(("http://", "https://")) else self._root.partition("://")[2]
        self.can_list = not uri.startswith(("http://", "https://"))
        self._opened: tuple[int, Any] | None = None

    @property
    def _files(self) -> Any:
        """Return the client of the remote store, opened on first use: it belongs to the process that made it."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), open_filesystem(self._root)
        return self._opened[1]

    def refuse_if_read_only(self) -> None:
        """Raise UsageError if files of this protocol can only be read."""
        if not self.uri.startswith(("s3://", "gs://")):
            upload = ", and upload it with tcae push once it is complete" if self.uri.startswith("hf://") else ""
            raise UsageError(f"{self.uri} can only be read; write the store to a local path, s3:// or gs://{upload}")

    def below(self, name: str) -> "RemoteFolder":
        return type(self)(f"{self._root}{name}")

    def read(self, name: str) -> bytes:
        with self._reading(name):
            data: bytes = self._files.cat_file(self._path(name))
            return data

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        for start in range(0, len(names), _READ_TOGETHER):
            together = names[start : start + _READ_TOGETHER]
            paths = [self._path(name) for name in together]
            with self._reading(names[start]):
                found = self._files.cat_ranges(paths, [None] * len(paths), [None] * len(paths), on_error="return")
            for name, data in zip(together, found, strict=True):
                if isinstance(data, BaseException) and not isinstance(data, FileNotFoundError):
                    with self._reading(name):
                        raise data
                yield data if isinstance(data, bytes) else None

    def read_range(self, name: str, start: int, size: int) -> bytes:
        if not size:
            return b""  # HTTP cannot express an empty range
        with self._reading(name):
            # Not every store counts a negative start from the end.
            start = max(0, self._size_bytes(name) + start) if start < 0 else start
            data: bytes = self._files.cat_file(self._path(name), start=start, end=start + size)
            if len(data) > size:
                raise OSError("the server sends whole files where a part is asked for; copy it here, or serve ranges")
            return data

    def ranges(self, name: str) -> "Ranges":
        return _RemoteRanges(self, name)

    @contextmanager
    def open(self, name: str, read_ahead_bytes: int | None = None) -> Iterator[BinaryIO]:
        def size_bytes() -> int:
            with self._reading(name):
                return self._size_bytes(name)

        def read_range(start: int, size: int) -> bytes:
            return self._attempt(partial(self.read_range, name, start, size))

        whole = RemoteFile(read_range, self._attempt(size_bytes))
        with io.BufferedReader(whole, read_ahead_bytes or READ_AHEAD_BYTES) as reader:
            yield reader

    def in_order(
        self, function: Callable[[Item], Result], items: Iterable[Item], num_reads: int = NUM_READS
    ) -> Iterator[Result]:
        return in_threads(function, items, num_reads)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        above = self._path(prefix).rstrip("/")
        with self._reading(prefix):
            try:
                found = self._files.find(above, detail=True)
            except FileNotFoundError:  # not even the bucket
                return {}
        # The prefix itself comes as a folder where the first object under it is being written.
        return {
            path.removeprefix(self._prefix): int(entry["size"])
            for path, entry in found.items()
            if entry["type"] == "file" and path.startswith(f"{above}/") and not path.endswith("/")
        }

    def modified(self, name: str) -> float:
        with self._reading(name):
            moment: float = self._files.modified(self._path(name)).timestamp()
            return moment

    def make(self) -> None:
        """Do nothing: prefixes need not be made, and buckets belong to their owners."""

    def remove_if_empty(self) -> None:
        """Do nothing: a prefix without objects does not exist."""

    def write(self, *steps: Mapping[str, bytes], check: Callable[[], None] = no_check) -> None:
        for files in filter(None, steps):
            check()
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

    def discard_parts(self, owner: str, names: Collection[str]) -> None:
        """Do nothing: there are no temporary files, and an upload that is under way cannot be found by its name."""

    def put(self, path: Path, name: str) -> None:
        with self._writing(name):
            self._files.put_file(str(path), self._path(name))

    def fetch(self, prefix: str, names: Sequence[str], scratch: Path) -> Path:
        target = scratch / Path(prefix).name
        target.mkdir(parents=True, exist_ok=True)

        def fetch_one(name: str) -> None:
            with suppress(FileNotFoundError), self._reading(f"{prefix}/{name}"):
                self._files.get_file(self._path(f"{prefix}/{name}"), str(target / name))

        deque(self.in_order(fetch_one, names), maxlen=0)
        return target

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            with self._writing(name), suppress(FileNotFoundError):
                self._files.rm_file(self._path(name))

    def _attempt(self, read: Callable[[], Result]) -> Result:
        """Return what `read` returns; after an error that may pass, such as a connection that broke, it reads again."""
        for _ in range(self._num_attempts - 1):
            try:
                return read()
            except RemoteReadError as error:
                if error.errno == errno.EACCES:
                    raise
        return read()

    def _size_bytes(self, name: str) -> int:
        size_bytes = self._files.info(self._path(name))["size"]
        if size_bytes is None:
            raise OSError("the server does not say how large it is")
        return int(size_bytes)

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Give errors the errno, reason and file name of a local disk's, and a sentence unless a file is missing."""
        try:
            with remote_errors():
                yield
        except OSError as error:
            raise read_error(error, self._root + name) from error

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Turn errors into a DiskError."""
        self.refuse_if_read_only()
        try:
            with remote_errors():
                yield
        except OSError as error:
            found = str(error.strerror or error).rstrip(".")
            if isinstance(error, FileNotFoundError):
                found = "there is no such bucket"
            raise DiskError(
                f"{self._root}{name} cannot be written: {found}; what is complete stays, put it right and repeat"
            ) from error

    def _path(self, name: str) -> str:
        return self._prefix + name


class _RemoteRanges:
    """The Ranges of a remote file: every one is a request."""

    def __init__(self, folder: RemoteFolder, name: str) -> None:
        self._folder = folder
        self._name = name

    def read(self, start: int, size: int) -> bytes:
        return self._folder.read_range(self._name, start, size)

    def fill_now(self, pieces: Sequence[memoryview | bytearray], start: int, size: int) -> bool:
        return self.fill(pieces, start, size)

    def fill(self, pieces: Sequence[memoryview | bytearray], start: int, size: int) -> bool:
        data = memoryview(self.read(start, size))
        if len(data) < size:
            return False
        for piece in pieces:
            target = memoryview(piece).cast("B")
            target[:], data = data[: target.nbytes], data[target.nbytes :]
        return True


class _Upload:
    """A FileInProgress as a multipart upload: invisible until it is completed."""

    def __init__(self, folder: RemoteFolder, name: str, file: Any) -> None:
        self._folder = folder
        self._name = name
        self._file = file

    def write(self, *pieces: bytes) -> None:
        with self._folder._writing(self._name):
            self._file.write(b"".join(pieces))

    def seal(self) -> None:
        """Do nothing: what the store has accepted is durable there."""

    def publish(self) -> None:
        with self._folder._writing(self._name):
            self._file.close()

    def discard(self) -> None:
        if not self._file.closed:
            with suppress(OSError), remote_errors():
                self._file.discard()
            self._file.closed = True  # or it would upload the rest when it is collected
