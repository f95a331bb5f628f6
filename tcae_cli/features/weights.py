"""Finds the files of pretrained weights, or has them fetched, and loads networks from them.

They are looked for in the caches of torch's hub and of Hugging Face, and fetched to the first.
"""

from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError  # as torch.load refuses what is not tensors; nothing is unpickled here
from typing import Any

import huggingface_hub
import safetensors.torch
import torch
from torch import Tensor

from tcae_cli.errors import WeightsError
from tcae_cli.features.fetch import NotFetchedError, fetch
from tcae_cli.features.published import FILES, PublishedFile


def hub_cache(file: str) -> Path:
    """Return the path of a file in torch's hub cache, whether it exists or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file


def find_cached(file: PublishedFile) -> Path | None:
    """Return where torch's hub cache holds a file, or where timm's is in Hugging Face's cache; None if neither does."""
    for name in filter(None, (file.file, file.other_file)):
        if (path := hub_cache(name)).is_file():
            return path
    if file.repository is None:
        return None
    found = huggingface_hub.try_to_load_from_cache(file.repository, "model.safetensors")
    return Path(found) if isinstance(found, str) else None


def weights_path(name: str, weights: Path | None, instead: str, check: Callable[[Path], object] | None = None) -> Path:
    """Return the file of a network of FILES: `weights`, if given, or a cached one, which is fetched first if need be.

    instead: advice for those who cannot have it; check: as for `fetch`. Raises WeightsError, with that advice.
    """
    file = FILES[name]
    if weights is not None:
        if weights.is_file():
            return weights
        raise WeightsError(
            f"{name} needs {file.file} ({file.url}), and {weights} does not exist; "
            f"correct the path in --weights {name}=PATH, or {instead}"
        )
    if cached := find_cached(file):
        return cached
    path = hub_cache(file.file)
    try:
        fetch(file, path, check)
    except NotFetchedError as error:
        raise WeightsError(
            f"{name} needs {file.file}, which is not in {path.parent} and could not be fetched from {file.url}: "
            f"{error}; copy it there from a machine with a network (tcae weights --fetch {name}), "
            f"pass --weights {name}=PATH, or {instead}"
        ) from error
    return path


def load_pretrained(build: Callable[[], Any], name: str, weights: Path | None, instead: str) -> Any:
    """Return the network that `build` makes with its weights, from a .safetensors file or one of torch.save.

    They are found as by `weights_path`. Raises WeightsError if the file is missing or holds anything else.
    """

    def load(path: Path) -> Any:
        model = build()
        try:
            model.load_state_dict(_read(path))
        except (RuntimeError, TypeError, EOFError, UnpicklingError, safetensors.SafetensorError) as error:
            file = FILES[name]
            raise WeightsError(
                f"{path} does not hold the weights of {name}; what fits is {file.file} ({file.url})"
            ) from error
        return model

    return load(weights_path(name, weights, instead, check=load))


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors
