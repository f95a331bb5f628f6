"""Paths elsewhere, through fsspec: s3://, gs://, hf:// and http(s)://."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.exceptions import FSTimeoutError

from tcae_cli.errors import UsageError

# What to install for a protocol, where it is not part of tcae itself.
_EXTRAS = {"s3": "tcae[s3]", "gs": "tcae[gs]", "gcs": "tcae[gs]"}
_PROTOCOLS = ("s3", "gs", "hf", "http", "https")
_CLIENT_ERRORS = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("httpx", "HTTPError"),
)


def is_remote(uri: str) -> bool:
    """Whether this names something that is not on a local disk."""
    return "://" in uri


def open_filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a remote name, and the path there. Credentials come from the usual places.

    Raises UsageError for a protocol that is not known or whose package is not installed.
    """
    protocol = uri.partition("://")[0]
    if protocol not in _PROTOCOLS:
        known = ", ".join(f"{name}://" for name in _PROTOCOLS)
        raise UsageError(f"{uri}: {protocol}:// is not a protocol tcae knows; use a local path or one of {known}")
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it prints tracebacks of what it raises as well
    try:
        filesystem, path = fsspec.url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        extra = _EXTRAS.get(protocol, f"fsspec[{protocol}]")
        raise UsageError(f"{uri}: {protocol}:// needs a package that is not here; pip install '{extra}'") from error
    return filesystem, str(path).rstrip("/")


@contextmanager
def remote_errors() -> Iterator[None]:
    """Turns what clients of remote stores raise into the OSError that a local disk would have raised."""
    try:
        yield
    except FSTimeoutError as error:
        raise OSError("no answer in time") from error
    except OSError:  # most of it already, FileNotFoundError and PermissionError among them
        raise
    except _client_errors() as error:
        raise OSError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def _client_errors() -> tuple[type[BaseException], ...]:
    """What the clients that are in use raise beside OSErrors."""
    loaded = [(sys.modules.get(module), name) for module, name in _CLIENT_ERRORS]
    return tuple(getattr(module, name) for module, name in loaded if module)
