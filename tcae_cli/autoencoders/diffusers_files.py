"""Finds the files of a diffusers model, in a folder or on the Hugging Face Hub, and the identity of its encoder."""

import hashlib
import inspect
import json
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tcae_cli.errors import CheckpointError, NotFoundError
from tcae_cli.runtime.hub_models import fetch_model_file

PREFIX = "diffusers:"
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"

_PIPELINE_FOLDER = "vae/"  # where a whole pipeline keeps its autoencoder
_DECODER_PARTS = ("decoder.", "post_quant_conv.")  # prefixes of the names of tensors that encode does not read
_NOT_IN_THE_HASH = {"sample_size"}  # any size runs through the same tensors


def find_config(name: str) -> tuple[str, Path]:
    """Return the folder inside the repository, "" or "vae/", and the path of its config."""
    found = _find_file(name, _PIPELINE_FOLDER + CONFIG, CONFIG)
    if found is None:
        raise NotFoundError(
            f"{name} holds neither {CONFIG} nor {_PIPELINE_FOLDER}{CONFIG}; name a model that diffusers has saved"
        )
    file, path = found
    return file.removesuffix(CONFIG), path


def read_config(path: Path) -> tuple[dict[str, Any], str]:
    """Return the config as the file has it, and the name of the model's class."""
    try:
        config = json.loads(path.read_bytes())
        return config, str(config["_class_name"])
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is not a {CONFIG} of diffusers: it names no _class_name") from error


def find_weights(name: str, folder: str) -> Path:
    """Return the path of the weights. Raises CheckpointError if there are none that safetensors reads."""
    found = _find_file(name, folder + WEIGHTS)
    if found is None:
        raise CheckpointError(
            f"{name} holds no {folder}{WEIGHTS}; other weight files, such as .bin, are not read, because unpickling "
            f"can run any code; save it again with diffusers' save_pretrained"
        )
    return found[1]


def _find_file(name: str, *files: str) -> tuple[str, Path] | None:
    """Return the first of the files that the folder or repository has, and its path; None if it has none of them.

    Raises NotFoundError if there is neither, or a file that is not in the Hub's cache cannot be fetched.
    """
    target = name.removeprefix(PREFIX)
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


def encoder_hash(weights: Path, model_class: type, config: dict[str, Any]) -> str:
    """Return the SHA-256 (hex) of the tensors `encode` reads, exactly as stored, of the class, and of its config.

    Fields at their defaults are omitted: files omit them, and later versions of the library add to them.
    """
    parameters = inspect.signature(model_class).parameters
    defaults = {key: json.dumps(each.default, default=str) for key, each in parameters.items()}
    shape = {
        key: value
        for key, value in config.items()
        if key not in _NOT_IN_THE_HASH and json.dumps(value) != defaults.get(key)
    }
    digest = hashlib.sha256(json.dumps([PREFIX, model_class.__name__, shape], sort_keys=True).encode())
    try:
        with safe_open(os.fspath(weights), framework="pt") as file:
            for key in sorted(file.keys()):
                if not key.startswith(_DECODER_PARTS):
                    tensor = file.get_tensor(key)
                    digest.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
                    digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    except SafetensorError as error:
        raise CheckpointError(f"{weights} is not a safetensors file ({error}); fetch it again") from error
    return digest.hexdigest()


def read_tensor(weights: Path, key: str) -> Tensor:
    """Return a tensor of a file. Raises CheckpointError if the file lacks it."""
    try:
        with safe_open(os.fspath(weights), framework="pt") as file:
            return file.get_tensor(key)
    except SafetensorError as error:
        raise CheckpointError(f"{weights} lacks the tensor {key} of the model; fetch it again") from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
