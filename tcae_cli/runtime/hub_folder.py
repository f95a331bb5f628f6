"""A Folder of a dataset on the Hugging Face Hub: files in its client's cache are read there, others by range."""

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError

from tcae_cli.errors import SourceError
from tcae_cli.runtime.hub import fetch, find_cached, get, locate, read_dataset
from tcae_cli.runtime.hub_errors import ask_again, reason_of, sentence_of
from tcae_cli.runtime.hub_name import HubName, parse_name
from tcae_cli.runtime.local_folder import LocalFolder, most_open_files
from tcae_cli.runtime.remote import read_error, remote_errors
from tcae_cli.runtime.remote_folder import RemoteFolder

if TYPE_CHECKING:
    from tcae_cli.runtime.folder import Ranges

_PLACE_HOLDS_S = 600.0  # the signature of a URL holds for an hour


class _Place(NamedTuple):
    """Where the bytes of a file are."""

    url: str
    size_bytes: int
    found_at: float


class HubFolder(RemoteFolder):
    """Files below hf://datasets/ORG/NAME[@REVISION]/[PATH/].

    The Hub counts requests, and the stores behind it do not: it is asked once where a file's bytes are, however many
    ranges of it are read. Raises SourceError if nothing of the dataset can be read.
    """

    keeps_opened = True  # a commit does not change
    _num_attempts = 1  # each asks again

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.most_open = most_open_files()  # those in the cache
        self._places: dict[str, _Place] = {}

    def read(self, name: str) -> bytes:
        with self._reading(name):
            if cached := find_cached(self._root + name):
                return cached.read_bytes()
            return ask_again(lambda: get(self._file(name).resolved_url))

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        def read_if_present(name: str) -> bytes | None:
            try:
                return self.read(name)
            except FileNotFoundError:
                return None

        return self.in_order(read_if_present, names)

    def ranges(self, name: str) -> "Ranges":
        if cached := find_cached(self._root + name):
            return LocalFolder(cached.parent).ranges(cached.name)
        return super().ranges(name)

    def read_range(self, name: str, start: int, size: int) -> bytes:
        if not size:
            return b""
        with self._reading(name):
            if cached := find_cached(self._root + name):
                return LocalFolder(cached.parent).read_range(cached.name, start, size)
            return ask_again(partial(self._get_range, name, start, size))

    @contextmanager
    def open(self, name: str, read_ahead_bytes: int | None = None) -> Iterator[BinaryIO]:
        if cached := find_cached(self._root + name):
            with cached.open("rb") as file:
                yield file
            return
        with super().open(name, read_ahead_bytes) as reader:
            yield reader

    def fetch(self, prefix: str, names: Sequence[str], scratch: Path) -> Path:
        """Return the folder of the client's cache with these files, which are fetched into it where it lacks them."""
        for name in names:
            path = fetch(f"{self._root}{prefix}/{name}", say=None)
        return path.parent

    def sizes(self, prefix: str = "") -> dict[str, int]:
        if not constants.HF_HUB_OFFLINE:
            return super().sizes(prefix)
        above = self._file(prefix)
        start = self._file("").path
        cached = read_dataset(above._replace(path=""))
        inside = [name for name in cached.files if not above.path or name.startswith(f"{above.path}/")]
        found = {name: find_cached(str(cached.name._replace(path=name))) for name in inside}
        return {name.removeprefix(start).lstrip("/"): path.stat().st_size for name, path in found.items() if path}

    def _get_range(self, name: str, start: int, size: int) -> bytes:
        is_known = name in self._places
        place = self._place(name)
        first = start if start >= 0 else max(0, place.size_bytes + start)
        last = min(first + size, place.size_bytes) - 1
        if last < first:
            return b""
        try:
            data = get(place.url, f"bytes={first}-{last}")
        except OSError:
            self._places.pop(name, None)
            if not is_known:
                raise
            return self._get_range(name, start, size)  # where it is now: the signature of the URL may have ended
        if len(data) > size:
            raise OSError("the server sends whole files where a part is asked for; fetch it with `hf download`")
        return data

    def _size_bytes(self, name: str) -> int:
        if cached := find_cached(self._root + name):
            return cached.stat().st_size
        return ask_again(lambda: self._place(name)).size_bytes

    def _place(self, name: str) -> _Place:
        place = self._places.get(name)
        if place is None or time.monotonic() - place.found_at > _PLACE_HOLDS_S:
            url, size_bytes = locate(self._file(name))
            if size_bytes is None:
                raise OSError("the server does not say how large it is")
            place = self._places[name] = _Place(url, size_bytes, time.monotonic())
        return place

    def _file(self, name: str) -> HubName:
        file = parse_name(self._root + name)
        assert file, self._root
        return file

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Give errors what RemoteFolder gives them; one that concerns all of the dataset is a SourceError."""
        try:
            with remote_errors():
                yield
        except OSError as error:
            location = self._root + name
            if isinstance(error, EntryNotFoundError):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), location) from error
            if sentence := sentence_of(error, self._file(name)):
                raise SourceError(sentence) from error
            raise read_error(error if error.errno else OSError(reason_of(error)), location) from error
