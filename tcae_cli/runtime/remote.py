"""Opens remote names, s3://, gs://, hf:// and http(s)://, through fsspec: their file systems, files and errors."""

import errno
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import fsspec
from fsspec.exceptions import FSTimeoutError

from tcae_cli.errors import DiskError, UsageError

NUM_READS = 16  # under way at once in a remote store, where a read is mostly waiting

# The extra to install for a protocol that needs a package of its own.
_EXTRAS = {"s3": "tcae[s3]", "gs": "tcae[gs]"}
_PROTOCOLS = ("s3", "gs", "hf", "http", "https")
_CLIENT_ERRORS = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("httpx", "HTTPError"),
    ("httpx2", "HTTPError"),
)


def is_remote(uri: str) -> bool:
    """Return whether a name is a URL rather than a path on a local disk."""
    return "://" in uri


def suffix_of(uri: str) -> str:
    """Return the suffix of a path, or of a URL without its query, in lower case."""
    return PurePosixPath(uri.partition("?")[0] if is_remote(uri) else uri).suffix.lower()


def open_filesystem(uri: str) -> Any:
    """Return the fsspec file system of a remote name. Credentials come from the usual places.

    Raises UsageError for a protocol that is not known or whose package is not installed.
    """
    protocol = uri.partition("://")[0]
    if protocol not in _PROTOCOLS:
        known = ", ".join(f"{name}://" for name in _PROTOCOLS)
        raise UsageError(f"{uri}: {protocol}:// is not a protocol tcae knows; use a local path or one of {known}")
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it prints tracebacks of errors that it raises as well
    try:
        filesystem, _ = fsspec.url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        extra = _EXTRAS.get(protocol, f"fsspec[{protocol}]")
        raise UsageError(
            f"{uri}: {protocol}:// needs a package that is not installed; pip install '{extra}'"
        ) from error
    quiet_hub_client()
    return filesystem


def quiet_hub_client() -> None:
    """Keep the Hugging Face Hub's client from warning on stderr of each request that it repeats."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


@contextmanager
def remote_errors() -> Iterator[None]:
    """Turn errors of a remote store's client into the OSError that a local disk would have raised."""
    try:
        yield
    except FSTimeoutError as error:
        raise OSError("no answer in time") from error
    except OSError:  # most errors already, FileNotFoundError and PermissionError among them
        raise
    except _client_errors() as error:
        raise OSError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error


class RemoteReadError(DiskError):
    """Raised when a remote file cannot be read: errno, reason and name are as on a local disk, str() is a sentence."""

    def __init__(self, local: OSError, found: str) -> None:
        super().__init__(local.errno, local.strerror, local.filename)
        self.local = local
        self.found = found

    def __str__(self) -> str:
        return f"{self.filename} cannot be read: {self.found}; check your permissions and the network, and repeat"

    def __reduce__(self) -> tuple[type["RemoteReadError"], tuple[OSError, str]]:
        return type(self), (self.local, self.found)


def read_error(error: OSError, location: str) -> OSError:
    """Return a FileNotFoundError or a RemoteReadError, with errno, reason and file name, for an error in reading."""
    # fsspec's HTTP says "not found" whatever went wrong, with the truth behind it.
    behind: Any = error.__cause__
    is_http = type(behind).__module__.startswith("aiohttp")
    cause = behind if is_http and getattr(behind, "status", None) != 404 else error
    if isinstance(cause, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), location)
    found = str(getattr(cause, "strerror", None) or cause) or type(cause).__name__
    if isinstance(cause, PermissionError) or getattr(cause, "status", None) in (401, 403):
        number, reason = errno.EACCES, os.strerror(errno.EACCES)
    elif isinstance(cause, TimeoutError):
        number, reason = errno.ETIMEDOUT, "no answer in time"
    else:
        number, reason = errno.EIO, found
    return RemoteReadError(OSError(number, reason, location), found.rstrip("."))


class RemoteFile(io.RawIOBase):
    """A remote file to seek in, fetched in ranges: `read_range` takes the first byte and a size."""

    def __init__(self, read_range: Callable[[int, int], bytes], size_bytes: int) -> None:
        self._read_range = read_range
        self._size_bytes = size_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._read_range(self._position, max(0, min(len(buffer), self._size_bytes - self._position)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _client_errors() -> tuple[type[BaseException], ...]:
    """Return the errors, beside OSErrors, of the clients that are in use."""
    loaded = [(sys.modules.get(module), name) for module, name in _CLIENT_ERRORS]
    return tuple(getattr(module, name) for module, name in loaded if module)
