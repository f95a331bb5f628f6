"""Files below one root, on a local disk or in a remote store, read whole or in part."""

import errno
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar

from tcae_cli.runtime.remote import is_remote, open_filesystem, remote_errors

NUM_READS = 16  # under way at once in a remote store, where a read is mostly waiting
_READ_AHEAD_BYTES = 4 << 20

Item = TypeVar("Item")
Result = TypeVar("Result")


def common_root(locations: list[str]) -> str:
    """The deepest folder above all these paths or URLs, ending in "/": what follows it in each is its name."""
    # By characters, then cut at a slash: names in object stores hold // and .., which commonpath would tidy away.
    start = os.path.commonprefix(locations)  # noqa: RUF071
    return start[: start.rfind("/") + 1]


class Storage:
    """Files named relative to a root. What cannot be had raises OSError with its reason and file name, anywhere."""

    def __init__(self, root: str) -> None:
        self.root = root  # an absolute path or a URL, ending in "/"
        self.is_remote = is_remote(root)
        self._opened: tuple[Any, str] | None = None  # on first use: a client belongs to the process that made it

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        if self.is_remote:
            with self._errors(name):
                data: bytes = self._client()[0].cat_file(self.root + name)
                return data
        with open(self.root + name, "rb", buffering=0) as file:
            return file.read()

    def read_part(self, name: str, offset: int, size_bytes: int) -> bytes:
        """Some bytes of a file; also raises OSError if it does not reach that far."""
        data = self._part(name, offset, size_bytes)
        if len(data) < size_bytes:
            raise OSError(f"{os.path.basename(name)} is shorter than when it was indexed")
        return data

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file to read and seek in, with read-ahead."""
        if not self.is_remote:
            with open(self.root + name, "rb") as file:
                yield file
            return
        raw = _RemoteFile(lambda offset, size_bytes: self._part(name, offset, size_bytes), self._size_bytes(name))
        with io.BufferedReader(raw, _READ_AHEAD_BYTES) as reader:
            yield reader

    def find(self) -> Iterator[tuple[str, int]]:
        """Name and size in bytes of every file below a remote root, in no order."""
        with self._errors(""):
            client, path = self._client()
            found = client.find(path, detail=True)
        prefix = f"{path}/"
        for name, info in found.items():
            if info["type"] == "file" and name.startswith(prefix) and not name.endswith("/"):
                yield name.removeprefix(prefix), info["size"]

    def in_order(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """function(item) of each item, in order: one by one, or in a remote store with NUM_READS under way."""
        return _in_threads(function, items) if self.is_remote else map(function, items)

    def _part(self, name: str, offset: int, size_bytes: int) -> bytes:
        """So many bytes from there, fewer where the file ends."""
        if not self.is_remote:
            with open(self.root + name, "rb", buffering=0) as file:
                return os.pread(file.fileno(), size_bytes, offset)
        if not size_bytes:
            return b""  # HTTP has no words for an empty range
        with self._errors(name):
            data: bytes = self._client()[0].cat_file(self.root + name, start=offset, end=offset + size_bytes)
            if len(data) > size_bytes:
                raise OSError("the server sends whole files where a part is asked for; copy it here, or serve ranges")
            return data

    def _size_bytes(self, name: str) -> int:
        with self._errors(name):
            size_bytes = self._client()[0].info(self.root + name)["size"]
            if size_bytes is None:
                raise OSError("the server does not say how large it is")
            return int(size_bytes)

    def _client(self) -> tuple[Any, str]:
        self._opened = self._opened or open_filesystem(self.root)
        return self._opened

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Gives a remote store's errors the errno, reason and file name that a local disk's have."""
        try:
            with remote_errors():
                yield
        except OSError as error:
            raise _as_local(_cause(error), self.root + name) from error


class _RemoteFile(io.RawIOBase):
    """A remote file to seek in, fetched in parts."""

    def __init__(self, part: Callable[[int, int], bytes], size_bytes: int) -> None:
        self._part, self._size_bytes, self._position = part, size_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._part(self._position, max(0, min(len(buffer), self._size_bytes - self._position)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    pool = ThreadPoolExecutor(NUM_READS)
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) == NUM_READS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Whoever stops early does not wait for reads that nobody wants any more.
        pool.shutdown(wait=False, cancel_futures=True)


def _cause(error: OSError) -> BaseException:
    """What went wrong: fsspec's HTTP says "not found" whatever it was, with the truth behind it."""
    behind = error.__cause__
    is_http = behind is not None and type(behind).__module__.startswith("aiohttp")
    return behind if behind is not None and is_http and getattr(behind, "status", None) != 404 else error


def _as_local(error: BaseException, location: str) -> OSError:
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), location)
    if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):
        return PermissionError(errno.EACCES, os.strerror(errno.EACCES), location)
    if isinstance(error, TimeoutError):
        return TimeoutError(errno.ETIMEDOUT, "no answer in time", location)
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return OSError(errno.EIO, reason, location)
