"""Fetches a published file: by one process a machine, resumed where a connection broke off, checked, renamed last.

No library that is installed does all of this: torch.hub and fsspec do not resume, and huggingface_hub's client waits
for minutes where there is no network.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from huggingface_hub import constants

from tcae_cli.errors import WeightsError
from tcae_cli.features.published import PublishedFile
from tcae_cli.reports.progress import say_aside
from tcae_cli.runtime import silence
from tcae_cli.runtime.files import rename_durably

_PAUSES_S = (1.0, 2.0, 4.0)  # before asking again, after attempts that brought nothing
_SAY_EVERY_S = 10.0
_CHUNK_BYTES = 2**20


class NotFetchedError(Exception):
    """Raised when a file could not be fetched; the message says why."""


class _CutError(Exception):
    """Raised when a connection broke off or could not be made; asking again may help."""


def fetch(file: PublishedFile, path: Path, check: Callable[[Path], object] | None = None) -> None:
    """Fetch a published file to `path`, and make its folder. Raises NotFetchedError.

    Of the processes of a machine that ask for it, one fetches and the others wait. A part that an earlier attempt left
    beside it, in a file ending in .part, is completed. A file with a published SHA-256 is checked by that, and any
    other one by `check`, which raises WeightsError; a file that fails is removed.
    """
    if variable := _offline():
        raise NotFetchedError(f"{variable} is set")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("a+") as lock, _alone(lock):
            if path.is_file():
                return
            part = path.with_name(f"{path.name}.part")
            _download(file, part)
            _check(file, part, check)
            rename_durably(part, path)
    except OSError as error:
        raise NotFetchedError(f"{path.parent} cannot be written ({error.strerror or error})") from error
    say_aside(f"fetched {file.name} to {path}")


def _offline() -> str | None:
    """Return the variable of the environment that forbids to use the network; None if none does."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE"
    is_set = os.environ.get("TCAE_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES
    return "TCAE_OFFLINE" if is_set else None


@contextmanager
def _alone(lock: IO[str]) -> Iterator[None]:
    """Hold a lock, which the kernel releases if the process dies.

    If a holder that was waited for has failed, its reason is raised: many ranks do not fail at the same thing in turn.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if reason := lock.read():
            raise NotFetchedError(reason) from None
    lock.truncate(0)
    try:
        yield
    except NotFetchedError as error:
        lock.write(str(error))
        raise


def _download(file: PublishedFile, part: Path) -> None:
    """Complete the part; after a cut, ask again as long as more arrives. Raises NotFetchedError."""
    begun_with = _size(part)
    pauses = iter(_PAUSES_S)
    while True:
        had = _size(part)
        try:
            return _receive(file, part)
        except _CutError as error:
            has = _size(part)
            if has > had:
                pauses = iter(_PAUSES_S)
            pause_s = next(pauses, None)
            if has <= begun_with or pause_s is None:
                kept = f"; {_mib(has)} have arrived and are kept, to resume from" if has else ""
                raise NotFetchedError(f"{error}{kept}") from error
        time.sleep(pause_s)


def _receive(file: PublishedFile, part: Path) -> None:
    """Append what the part lacks. Raises _CutError, or NotFetchedError for an answer that does not fit."""
    with _ask(file.url, part) as answer:
        had = _size(part) if answer.status == 206 else 0  # otherwise the whole file comes
        length = answer.headers["Content-Length"]
        total = had + int(length) if length else None
        if total and file.size_bytes and total != file.size_bytes:
            part.unlink(missing_ok=True)
            raise NotFetchedError(f"the file there has {total:,} bytes, and {file.size_bytes:,} were published")

        of_total = f" of {_mib(total)}" if total else ""
        say_aside(f"fetching {file.name} from {file.url}: {_mib(had)}{of_total}")
        said_at = time.monotonic()
        with part.open("ab" if had else "wb") as out:
            for piece in _pieces(answer):
                had += out.write(piece)
                if time.monotonic() - said_at >= _SAY_EVERY_S:
                    said_at = time.monotonic()
                    say_aside(f"{file.name}: {_mib(had)}{of_total}")
    if total and had < total:
        raise _CutError(f"the connection broke off after {had:,} of {total:,} bytes")


def _ask(url: str, part: Path) -> HTTPResponse:
    """Return the answer to a request for what the part lacks. Raises _CutError or NotFetchedError."""
    host = urlsplit(url).netloc
    headers = {"User-Agent": "tcae"}
    if had := _size(part):
        headers["Range"] = f"bytes={had}-"
    try:
        return _answer(Request(url, headers=headers))
    except HTTPError as error:
        error.close()
        if error.code == 416:  # the part is no beginning of this file
            part.unlink()
            return _ask(url, part)
        passes = error.code == 429 or error.code >= 500
        raise (_CutError if passes else NotFetchedError)(f"{host} answered {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise _CutError(f"{host} could not be reached ({getattr(reason, 'strerror', None) or reason})") from error


def _answer(request: Request) -> HTTPResponse:
    """Return the answer to a request. Raises TimeoutError, or another error of urlopen.

    A thread asks, because the time-out of a socket covers neither the look-up of a name nor all of its addresses.
    """
    if silence.is_expected():
        raise TimeoutError("another host did not answer a moment ago")
    answers: SimpleQueue[HTTPResponse | OSError | HTTPException] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urlopen(request, timeout=silence.PATIENCE_S))
        except (OSError, HTTPException) as error:
            answers.put(error)

    Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=silence.PATIENCE_S)
    except Empty:
        answer = TimeoutError()
    if isinstance(answer.reason if isinstance(answer, URLError) else answer, TimeoutError):
        silence.note_silence()
        raise TimeoutError(f"no answer within {silence.PATIENCE_S:g} s")
    if isinstance(answer, (OSError, HTTPException)):
        raise answer
    return answer


def _pieces(answer: HTTPResponse) -> Iterator[bytes]:
    """Yield what arrives. Raises _CutError."""
    try:
        while piece := answer.read1(_CHUNK_BYTES):
            yield piece
    except (OSError, HTTPException) as error:
        raise _CutError(f"the connection broke off ({error})") from error


def _check(file: PublishedFile, part: Path, check: Callable[[Path], object] | None) -> None:
    """Remove a part that is not the file that was published. Raises NotFetchedError."""
    reason = ""
    if file.sha256:
        with part.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if not found.startswith(file.sha256):
            reason = f"what arrived has the SHA-256 {found[:8]}..., and {file.sha256[:8]}... was published"
    elif check:
        try:
            check(part)
        except WeightsError:
            reason = "what arrived does not hold its tensors"
    if reason:
        part.unlink()
        raise NotFetchedError(f"{reason}, so it was removed")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"
