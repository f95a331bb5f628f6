"""Finds the files of a diffusers model, in a folder or on the Hugging Face Hub, and the identity of its encoder."""

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

from tcae_cli.autoencoders.model_files import find_file, hash_tensors
from tcae_cli.errors import CheckpointError, NotFoundError

PREFIX = "diffusers:"
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"

_PIPELINE_FOLDER = "vae/"  # where a whole pipeline keeps its autoencoder
_DECODER_PARTS = ("decoder.", "post_quant_conv.")  # prefixes of the names of tensors that encode does not read
_NOT_IN_THE_HASH = {"sample_size"}  # any size runs through the same tensors


def find_config(name: str) -> tuple[str, Path]:
    """Return the folder inside the repository, "" or "vae/", and the path of its config."""
    found = find_file(name, name.removeprefix(PREFIX), _PIPELINE_FOLDER + CONFIG, CONFIG)
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
    found = find_file(name, name.removeprefix(PREFIX), folder + WEIGHTS)
    if found is None:
        raise CheckpointError(
            f"{name} holds no {folder}{WEIGHTS}; other weight files, such as .bin, are not read, because unpickling "
            f"can run any code; save it again with diffusers' save_pretrained"
        )
    return found[1]


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
    hash_tensors(digest, weights, lambda key: not key.startswith(_DECODER_PARTS))
    return digest.hexdigest()
