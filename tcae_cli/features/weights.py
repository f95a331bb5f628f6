"""Files of pretrained weights: where torch's hub keeps them, and how a network gets them."""

from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError  # as torch.load refuses what is not tensors; nothing is unpickled here
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from tcae_cli.errors import WeightsError


def hub_cache(file: str) -> Path:
    """Where a file of torch's hub cache is, or would be."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file


def load_pretrained(build: Callable[[], Any], path: Path, name: str, file: str, instead: str) -> Any:
    """The network that `build` makes, with the weights of `path`: a .safetensors file, or one of torch.save.

    name: the network's in --weights; file: what it is published as; instead: what to do without it.
    Raises WeightsError where the file is missing or holds anything else.
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
