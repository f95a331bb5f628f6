"""Says in one sentence what went wrong at the Hugging Face Hub, and asks again where that may pass."""

import errno
import time
from collections.abc import Callable
from http.client import responses
from typing import TypeVar

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tcae_cli.runtime import silence
from tcae_cli.runtime.hub_name import HubName
from tcae_cli.runtime.remote import remote_errors

Result = TypeVar("Result")

_WAITS_S = (1.0, 2.0)  # before asking again after a trouble that may pass
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


def ask_again(ask: Callable[[], Result]) -> Result:
    """Return what `ask` returns; it is called again after an error that may pass, unless that took long already.

    Errors of the client that are no OSError become one.
    """
    for wait_s in _WAITS_S:
        begun_at = time.monotonic()
        try:
            with remote_errors():
                return ask()
        except OSError as error:
            if not _may_pass(error) or time.monotonic() - begun_at > silence.PATIENCE_S / 2:
                raise
        time.sleep(wait_s)
    with remote_errors():
        return ask()


def _may_pass(error: OSError) -> bool:
    status = _status(error)
    if status is not None:
        return status == 429 or status >= 500
    return error.errno is None and not isinstance(error, (OfflineModeIsEnabled, FileNotFoundError))


def sentence_of(error: OSError, name: HubName) -> str:
    """Return what is wrong with all of a dataset, and what to do; "" for an error that concerns less."""
    dataset = name._replace(path="", revision=None)
    match error:
        case GatedRepoError():
            return f"{dataset} is gated: accept its terms at {name.page}, and {_LOG_IN}"
        case RepositoryNotFoundError():
            return f"{dataset} does not exist, or is private: look for it at {name.page}, and correct it or {_LOG_IN}"
        case RevisionNotFoundError():
            return f"{dataset} has no revision {name.revision}; its revisions are listed at {name.page}/tree/main"
        case OfflineModeIsEnabled():
            return (
                f"{name} is not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set; unset it, or run "
                f"`hf download --repo-type dataset {name.repository}` where there is a network"
            )
    match _status(error):
        case 401:
            return f"{name} cannot be fetched, since the Hub refuses your token; {_LOG_IN} anew"
        case 403:
            return f"{name} may not be read with your token; look at {name.page}, and {_LOG_IN} of one who may"
    return ""


def sentence(error: OSError, name: HubName) -> str:
    """Return what went wrong in fetching a file, or in reading what a dataset holds, and what to do."""
    if words := sentence_of(error, name):
        return words
    if isinstance(error, EntryNotFoundError):
        return f"{name} does not exist; its files are listed at {name.page}/tree/main"
    if error.errno == errno.ENOSPC:
        return (
            f"{name} cannot be fetched: no space left in {constants.HF_HUB_CACHE}; "
            f"make room there, or set HF_HOME to a folder on a larger disk"
        )
    if isinstance(error, PermissionError):
        return f"{name} cannot be fetched: {constants.HF_HUB_CACHE} may not be written; set HF_HOME to another folder"
    return f"{name} cannot be fetched ({reason_of(error)}); check the network, and repeat"


def upload_sentence(error: OSError, name: HubName) -> str:
    """Return what went wrong in writing a dataset or a model, and what to do."""
    whole = name._replace(path="")
    organisation = name.repository.partition("/")[0]
    match error:
        case LocalTokenNotFoundError():
            return f"{whole} cannot be written without a token; {_LOG_IN}"
        case OfflineModeIsEnabled():
            return f"{whole} cannot be written, since HF_HUB_OFFLINE is set; unset it"
        case RepositoryNotFoundError() | RevisionNotFoundError():
            return sentence_of(error, name)
    match _status(error):
        case 401:
            return f"{whole} cannot be written, since the Hub refuses your token; {_LOG_IN} anew"
        case 403:
            return f"{whole} may not be written with your token; {_LOG_IN} of one who may write to {organisation}"
    return f"{whole} cannot be written ({reason_of(error)}); what was uploaded stays, so repeat to resume"


def reason_of(error: OSError) -> str:
    """Return what the client, the server or this machine says is wrong, in some words."""
    if status := _status(error):  # the client's own words hold the URL with its signature
        return f"the server answers {status} {responses.get(status, '')}".rstrip()
    return (str(error.strerror or error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _status(error: OSError) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
