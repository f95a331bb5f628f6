"""Fetches files of models from the Hugging Face Hub through its client's cache."""

import time
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from tcae_cli.runtime.hub_errors import PATIENCE_S
from tcae_cli.runtime.remote import quiet_hub_client, remote_errors

_SILENT_S = 60.0  # for which a Hub that did not answer is not asked again

_silent_until = 0.0


def fetch_model_file(repository: str, file: str, revision: str | None = None) -> Path:
    """Return where the cache holds a file of a model, fetched first if need be; without a network, what it has.

    Raises the errors of huggingface_hub.hf_hub_download; without a network, LocalEntryNotFoundError within 10 seconds.
    """
    quiet_hub_client()
    is_silent = not constants.HF_HUB_OFFLINE and not _answers(repository, file, revision)
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision, local_files_only=is_silent))
    except LocalEntryNotFoundError as error:
        if not is_silent:
            raise
        raise LocalEntryNotFoundError("the Hub does not answer, and the file is not in the cache here") from error


def _answers(repository: str, file: str, revision: str | None) -> bool:
    """Return whether the Hub answers; hf_hub_download asks itself, but repeats that for a minute."""
    global _silent_until
    if time.monotonic() < _silent_until:
        return False
    url = huggingface_hub.hf_hub_url(repository, file, revision=revision)
    try:
        with remote_errors():
            huggingface_hub.get_hf_file_metadata(url, timeout=PATIENCE_S)
    except HfHubHTTPError:
        return True  # hf_hub_download will say what it answers
    except OSError:
        _silent_until = time.monotonic() + _SILENT_S
        return False
    return True
