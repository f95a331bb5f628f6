"""Writes repositories on the Hugging Face Hub through its client: what they hold, and commits of further files."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import file_digest, sha1, sha256
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from tcae_cli.errors import DiskError, UsageError
from tcae_cli.runtime import silence
from tcae_cli.runtime.hub import get
from tcae_cli.runtime.hub_errors import ask_again, upload_sentence
from tcae_cli.runtime.hub_name import HubName
from tcae_cli.runtime.remote import quiet_hub_client, remote_errors


class HubFile(NamedTuple):
    """A file in a repository, as the Hub knows it."""

    size_bytes: int
    git_hash: str
    sha256: str | None  # of a file in the large file storage

    def equals(self, content: Path | bytes) -> bool:
        """Return whether it has these bytes, given as such or as a local file."""
        size_bytes = len(content) if isinstance(content, bytes) else content.stat().st_size
        if size_bytes != self.size_bytes:
            return False
        with BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
            if self.sha256:
                return file_digest(file, sha256).hexdigest() == self.sha256
            return sha1(b"blob %d\0" % size_bytes + file.read()).hexdigest() == self.git_hash


def make_repository(name: HubName) -> None:
    """Make a repository unless there is one, as public or private as the user's account makes them.

    Raises UsageError for an impossible name, DiskError, with a sentence, if this user cannot write there.
    """
    with _uploading(name):
        if not huggingface_hub.get_token():
            raise LocalTokenNotFoundError
        api = huggingface_hub.HfApi()
        try:
            ask_again(
                lambda: api.repo_info(
                    name.repository, repo_type=name.kind, revision=name.revision, timeout=silence.PATIENCE_S
                )
            )
        except RepositoryNotFoundError:
            api.create_repo(name.repository, repo_type=name.kind, exist_ok=True)


def list_files(name: HubName) -> dict[str, HubFile]:
    """Return the files below a folder of a repository, by their paths in the repository. Raises as make_repository."""
    with _uploading(name):
        api = huggingface_hub.HfApi()
        try:
            found = ask_again(
                lambda: list(
                    api.list_repo_tree(
                        name.repository,
                        name.path or None,
                        recursive=True,
                        revision=name.revision,
                        repo_type=name.kind,
                    )
                )
            )
        except EntryNotFoundError:  # there is no such folder yet
            return {}
    files = [file for file in found if isinstance(file, huggingface_hub.hf_api.RepoFile)]
    return {file.path: HubFile(file.size, file.blob_id, file.lfs.sha256 if file.lfs else None) for file in files}


def read_file(name: HubName) -> bytes | None:
    """Return the bytes of a file of a repository as it is now; None if it is missing. Raises as make_repository."""
    with _uploading(name):
        try:
            return ask_again(lambda: get(name.resolved_url))
        except EntryNotFoundError:
            return None


def commit(name: HubName, files: Mapping[str, Path | bytes], message: str, removed: Iterable[str] = ()) -> str:
    """Write files, bytes or local ones, by their paths in the repository, and remove others; return the commit.

    All of it appears together. Large files that the Hub has received already, for a commit that was cut off, are not
    sent again. Raises as make_repository.
    """
    operations: list[Any] = [CommitOperationAdd(path, content) for path, content in files.items()]
    operations += [CommitOperationDelete(path) for path in removed]
    with _uploading(name), warnings.catch_warnings(action="ignore"):  # of a card without some field
        made = huggingface_hub.HfApi().create_commit(
            name.repository, operations, commit_message=message, repo_type=name.kind, revision=name.revision
        )
    return made.oid


@contextmanager
def _uploading(name: HubName) -> Iterator[None]:
    """Keep the client from drawing bars, and turn its errors into a sentence about the repository."""
    quiet_hub_client()
    had_bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with remote_errors():
            yield
    except HFValidationError as error:
        raise UsageError(f"{name} is not a name on the Hub: {str(error).splitlines()[0]}") from error
    except (RuntimeError, ValueError) as error:  # as the client reports files that could not be sent
        known = [each for each in (error, error.__cause__) if isinstance(each, OSError)]
        said = OSError(str(error.__cause__ or error).splitlines()[0])
        raise DiskError(upload_sentence((known or [said])[0], name)) from error
    except OSError as error:
        raise DiskError(upload_sentence(error, name)) from error
    finally:
        if had_bars:
            enable_progress_bars()
