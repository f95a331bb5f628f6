"""Finds files of other libraries' models, in a folder or on the Hugging Face Hub, and reads their tensors."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tcae_cli.errors import CheckpointError, NotFoundError
from tcae_cli.runtime.hub_models import fetch_model_file


class _Digest(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...


def find_file(name: str, target: str, *files: str) -> tuple[str, Path] | None:
    """Return the first of the files that the folder or repository has, and its path; None if it has none of them.

    name: in messages; target: a folder, or org/name[@revision].
    Raises NotFoundError if there is neither, or a file that is not in the Hub's cache cannot be fetched.
    """
    if (folder := Path(target)).is_dir():
        return next(((file, folder / file) for file in files if (folder / file).is_file()), None)
    repository, _, revision = target.partition("@")
    unreachable = None
    for file in files:
        try:
            return file, fetch_model_file(repository, file, revision or None)
        except LocalEntryNotFoundError as error:  # not in the cache, and the Hub cannot be asked
            unreachable = error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise NotFoundError(_not_fetched(name, error)) from error
    if unreachable:
        raise NotFoundError(_not_fetched(name, unreachable)) from unreachable
    return None


def _not_fetched(name: str, error: Exception) -> str:
    return (
        f"{name} is not a local folder and could not be fetched from the Hub ({first_line(error)}); "
        f"check the name and the network"
    )


def hash_tensors(digest: _Digest, weights: Path, is_hashed: Callable[[str], bool]) -> None:
    """Add the tensors of these names, exactly as stored, to a hash. Raises CheckpointError if the file is damaged."""
    try:
        with safe_open(os.fspath(weights), framework="pt") as file:
            for key in sorted(file.keys()):
                if is_hashed(key):
                    tensor = file.get_tensor(key)
                    digest.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
                    digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    except SafetensorError as error:
        raise CheckpointError(f"{weights} is not a safetensors file ({error}); fetch it again") from error


def read_tensor(weights: Path, key: str) -> Tensor:
    """Return a tensor of a file. Raises CheckpointError if the file lacks it."""
    try:
        with safe_open(os.fspath(weights), framework="pt") as file:
            return file.get_tensor(key)
    except SafetensorError as error:
        raise CheckpointError(f"{weights} lacks the tensor {key} of the model; fetch it again") from error


def read_tensors(weights: Path) -> dict[str, Tensor]:
    """Return all tensors of a file. Raises CheckpointError if the file is damaged."""
    try:
        with safe_open(os.fspath(weights), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{weights} is not a safetensors file ({error}); fetch it again") from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
