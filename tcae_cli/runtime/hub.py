"""Reads datasets on the Hugging Face Hub through its client: which files they hold, and each file through its cache."""

import errno
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from tcae_cli.errors import DiskError, NotFoundError, SourceError, UsageError
from tcae_cli.reports.progress import say_aside
from tcae_cli.runtime import silence
from tcae_cli.runtime.files import make_folder, write_atomic
from tcae_cli.runtime.hub_errors import ask_again, sentence
from tcae_cli.runtime.hub_name import HubName, parse_name
from tcae_cli.runtime.remote import quiet_hub_client

CARD = "README.md"

_SAY_EVERY_S = 10.0
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class HubDataset:
    """The files of a dataset at one commit."""

    name: HubName  # its revision is the commit
    files: tuple[str, ...]
    card: Mapping[str, Any]  # the metadata in its README.md
    is_cached: bool = False  # the files are those in the cache, which may lack some


def read_dataset(name: HubName) -> HubDataset:
    """Return the files of a dataset at the commit that its revision stands for now; offline, those in the cache.

    Raises NotFoundError if there is no such dataset or revision, SourceError if it cannot be read, each with a
    sentence; without a network this takes at most 10 seconds.
    """
    quiet_hub_client()
    if constants.HF_HUB_OFFLINE:
        return _cached_dataset(name)
    try:
        info = ask_again(
            lambda: huggingface_hub.HfApi().dataset_info(
                name.repository, revision=name.revision, timeout=silence.PATIENCE_S
            )
        )
        pinned = name._replace(revision=info.sha)
        files = tuple(file.rfilename for file in info.siblings or ())
        card_file = pinned._replace(path=CARD)
        card = _read_card(find_cached(str(card_file)) or _download(card_file)) if CARD in files else {}
    except HFValidationError as error:
        raise UsageError(f"{name} is not the name of a dataset: {str(error).splitlines()[0]}") from error
    except OSError as error:
        is_missing = isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError))
        kind = NotFoundError if is_missing and not isinstance(error, GatedRepoError) else SourceError
        raise kind(sentence(error, name)) from error
    _remember(name, pinned)
    return HubDataset(pinned, files, card)


def find_cached(location: str) -> Path | None:
    """Return where the cache holds a file of a dataset, hf://datasets/ORG/NAME@REVISION/PATH; None if it does not.

    A file at a revision that is not a commit counts only offline: the Hub may have a newer one.
    """
    name = parse_name(location)
    if not name or not (constants.HF_HUB_OFFLINE or _COMMIT.fullmatch(name.revision or "")):
        return None
    found = huggingface_hub.try_to_load_from_cache(
        name.repository, name.path, revision=name.revision, repo_type="dataset"
    )
    return Path(found) if isinstance(found, str) else None


def fetch(location: str, say: Callable[[str], None] | None = say_aside) -> Path:
    """Return where the cache holds a file of a dataset, as for find_cached; a file that it lacks is fetched first.

    say: takes a sentence with the file and its size and, now and then, how much of it has arrived.
    Raises SourceError, with a sentence, if it cannot be fetched.
    """
    quiet_hub_client()
    if found := find_cached(location):
        return found
    name = parse_name(location)
    assert name, location
    try:
        return ask_again(lambda: _download(name, say))
    except OSError as error:
        raise SourceError(sentence(error, name)) from error


def check_access(location: str) -> None:
    """Raise SourceError, with a sentence, unless this user can fetch a file of a dataset, or the cache holds it."""
    quiet_hub_client()
    if find_cached(location):
        return
    name = parse_name(location)
    assert name, location
    try:
        ask_again(lambda: locate(name))
    except OSError as error:
        raise SourceError(sentence(error, name)) from error


def pin(uri: str) -> str:
    """Return the URI with the commit that its revision stands for now, if it names a dataset or something in one.

    Raises what read_dataset raises.
    """
    name = parse_name(uri)
    if name is None or _COMMIT.fullmatch(name.revision or ""):
        return uri
    dataset = read_dataset(name._replace(path=""))
    return str(name._replace(revision=dataset.name.revision)) + ("/" if uri.endswith("/") else "")


def locate(name: HubName) -> tuple[str, int | None]:
    """Return the URL at which the bytes of a file are now, and how many they are; None: the Hub does not say."""
    found = huggingface_hub.get_hf_file_metadata(name.resolved_url, timeout=silence.PATIENCE_S)
    return found.location, found.size


def get(url: str, byte_range: str = "") -> bytes:
    """Return the bytes at a URL of the Hub, or of a store behind it, or a range of them: "bytes=0-99"."""
    headers = {"Range": byte_range} if byte_range else {}
    if url.startswith(f"{constants.ENDPOINT}/"):  # the token is for the Hub alone
        headers |= build_hf_headers()
    response = get_session().get(url, headers=headers, timeout=silence.PATIENCE_S)
    hf_raise_for_status(response)
    return response.content


def _download(name: HubName, say: Callable[[str], None] | None = None) -> Path:
    """Fetch a file into the cache; the client resumes where a connection breaks off."""
    # Asked here as well as by the client, which would repeat a question without an answer for minutes.
    _, size_bytes = locate(name)
    if size_bytes is not None:
        _refuse_full_disk(name, size_bytes)
    if say:
        of_size = f" ({size_bytes / 2**20:,.1f} MiB)" if size_bytes is not None else ""
        say(f"fetching {name.path} of {name.repository}{of_size}")
    try:
        path = huggingface_hub.hf_hub_download(
            name.repository, name.path, repo_type="dataset", revision=name.revision, tqdm_class=_bar(name, say)
        )
    except RuntimeError as error:  # as the client of the Hub's chunk store reports any trouble
        raise OSError(str(error).splitlines()[0]) from error
    return Path(path)


def _refuse_full_disk(name: HubName, size_bytes: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    parent = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if shutil.disk_usage(parent).free < size_bytes:
        raise OSError(errno.ENOSPC, "No space left on device", name.path)


def _bar(name: HubName, say: Callable[[str], None] | None) -> type[huggingface_hub.utils.tqdm]:
    """Return a class for the client's progress bars which draws nothing, and says now and then how far a file is."""

    class Bar(huggingface_hub.utils.tqdm):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings | {"disable": True})
            # The chunk store has a second bar, of bytes on the wire.
            self._say = None if "downloading bytes" in settings.get("desc", "") else say
            self._said_at = time.monotonic()

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self._say and self.total and time.monotonic() - self._said_at > _SAY_EVERY_S:
                self._said_at = time.monotonic()
                self._say(f"{name.path}: {self.n / 2**20:,.1f} of {self.total / 2**20:,.1f} MiB")

    return Bar


def _cached_dataset(name: HubName) -> HubDataset:
    """Return the files of a dataset that the cache holds, in the layout that the client documents.

    https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    folder = _cache_folder(name)
    try:
        commit = (folder / "refs" / (name.revision or constants.DEFAULT_REVISION)).read_text()
    except OSError:
        commit = name.revision or ""
    snapshot = folder / "snapshots" / commit
    if not commit or not snapshot.is_dir():
        raise SourceError(sentence(OfflineModeIsEnabled(), name))
    files = tuple(str(path.relative_to(snapshot)) for path in sorted(snapshot.rglob("*")) if path.is_file())
    card = _read_card(snapshot / CARD) if CARD in files else {}
    return HubDataset(name._replace(revision=commit), files, card, is_cached=True)


def _remember(name: HubName, pinned: HubName) -> None:
    """Let the cache know the commit of a revision, as the client does where it fetches a file by a revision's name."""
    reference = _cache_folder(name) / "refs" / (name.revision or constants.DEFAULT_REVISION)
    if name.revision != pinned.revision:
        with suppress(DiskError):  # it serves offline use alone
            make_folder(reference.parent)
            write_atomic(reference, str(pinned.revision).encode())


def _cache_folder(name: HubName) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"datasets--{name.repository.replace('/', '--')}"


def _read_card(path: Path) -> Mapping[str, Any]:
    try:
        return metadata_load(path) or {}
    except (ValueError, yaml.YAMLError):
        return {}  # the names of files say enough, where its metadata cannot be read
