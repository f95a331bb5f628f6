"""Finds files of pretrained weights in the caches of torch's hub and of Hugging Face, and loads networks from them."""

from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError  # as torch.load refuses what is not tensors; nothing is unpickled here
from typing import Any

import huggingface_hub
import safetensors.torch
import torch
from torch import Tensor

from tcae_cli.errors import WeightsError


def hub_cache(file: str) -> Path:
    """Return the path of a file in torch's hub cache, whether it exists or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file


def find_cached(file: str, repository: str) -> Path:
    """Return the path of `file` in torch's hub cache or, where it does not exist, of timm's in Hugging Face's cache.

    repository: of timm, at huggingface.co. Where neither exists, the path in torch's hub cache is returned.
    """
    path = hub_cache(file)
    if path.is_file():
        return path
    found = huggingface_hub.try_to_load_from_cache(repository, "model.safetensors")
    return Path(found) if isinstance(found, str) else path


def load_pretrained(build: Callable[[], Any], path: Path, name: str, file: str, instead: str) -> Any:
    """Return the network that `build` makes with the weights in `path`, a .safetensors file or one of torch.save.

    name: the network's in --weights; file: the name it is published under; instead: advice for those without it.
    Raises WeightsError if the file is missing or holds anything else.
    """
    if not path.is_file():
        raise WeightsError(
            f"{name} needs {file}, and {path} does not exist; put it there, pass --weights {name}=PATH, or {instead}"
        )
    model = build()
    try:
        model.load_state_dict(_read(path))
    except (RuntimeError, TypeError, EOFError, UnpicklingError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path} does not hold the weights of {name}; what fits is {file}") from error
    return model


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors
