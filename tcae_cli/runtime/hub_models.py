"""Fetches files of models from the Hugging Face Hub through its client's cache."""

from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from tcae_cli.runtime import silence
from tcae_cli.runtime.remote import quiet_hub_client, remote_errors


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


def cached_model_file(repository: str, file: str) -> Path | None:
    """Return where the cache holds a file of a model, None if it does not. Asks no network."""
    found = huggingface_hub.try_to_load_from_cache(repository, file)
    return Path(found) if isinstance(found, str) else None


def _answers(repository: str, file: str, revision: str | None) -> bool:
    """Return whether the Hub answers; hf_hub_download asks itself, but repeats that for a minute."""
    if silence.is_expected():
        return False
    url = huggingface_hub.hf_hub_url(repository, file, revision=revision)
    try:
        with remote_errors():
            huggingface_hub.get_hf_file_metadata(url, timeout=silence.PATIENCE_S)
    except HfHubHTTPError:
        return True  # hf_hub_download will say what it answers
    except OSError:
        silence.note_silence()
        return False
    return True
