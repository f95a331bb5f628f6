"""A model in one safetensors file: the weights, and in the header the model's description and identity."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tcae_cli.errors import CheckpointError
from tcae_cli.model.identity import ENCODER_VERSION, decoder_hash, encoder_hash
from tcae_cli.recipe.schema import ModelSpec
from tcae_cli.runtime.checksums import crc32c_of, crc32c_of_json
from tcae_cli.runtime.files import write_atomic

_HEADER, _HEADER_CRC, _TENSORS_CRC = "tcae", "tcae_crc32c", "tcae_tensors_crc32c"  # in safetensors' metadata

MODEL_FILE = "model.safetensors"  # in a run folder and in a repository of the Hub


class LatentStatistics(BaseModel):
    """Mean and standard deviation of each latent channel over `num_images` training images, for generators."""

    model_config = ConfigDict(frozen=True)

    mean: list[float]
    std: list[float]
    num_images: int


class Parent(BaseModel):
    """The model that another was finetuned from."""

    model_config = ConfigDict(frozen=True)

    name: str
    encoder_hash: str
    decoder_hash: str


class CheckpointHeader(BaseModel):
    """The header of a checkpoint."""

    model_config = ConfigDict(frozen=True)

    format_version: int = 1
    name: str
    spec: ModelSpec
    encoder_version: int = ENCODER_VERSION
    encoder_hash: str
    decoder_hash: str
    statistics: LatentStatistics
    recipe: dict[str, Any]
    step: int
    parent: Parent | None = None
    created_at: str

    @classmethod
    def read(cls, path: Path) -> "CheckpointHeader":
        """Return a file's header without reading the weights. Raises CheckpointError if it is not a tcae checkpoint."""
        return _parse_header(path, _open(path)[1])


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """The part of a checkpoint's header that does not follow from its weights and its name."""

    spec: ModelSpec
    statistics: LatentStatistics
    recipe: dict[str, Any]
    step: int
    parent: Parent | None = None


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], description: ModelDescription) -> CheckpointHeader:
    """Write a model atomically; `tensors` in the dtype to be shipped, since the hashes are over the stored bytes."""
    header = CheckpointHeader(
        **vars(description),
        name=path.parent.name if path.name == MODEL_FILE else path.stem,
        encoder_hash=encoder_hash(tensors, description.spec),
        decoder_hash=decoder_hash(tensors, description.spec),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_tensors(path, tensors, header.model_dump_json())
    return header


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], CheckpointHeader]:
    """Return the weights and the header. Raises CheckpointError if the file is not a sound tcae checkpoint."""
    tensors, text = read_tensors(path)
    header = _parse_header(path, text)
    if encoder_hash(tensors, header.spec) != header.encoder_hash:
        raise CheckpointError(f"{path}: the encoder's tensors do not match the hash in the header; the file is damaged")
    return tensors, header


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: str) -> None:
    """Write tensors and a JSON header in one safetensors file, atomically."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    checksums = {_HEADER_CRC: str(crc32c_of(header.encode())), _TENSORS_CRC: str(_crc32c_of_tensors(stored))}
    write_atomic(path, save(stored, {_HEADER: header, **checksums}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors and the header of a file made by write_tensors. Raises CheckpointError if it is not one."""
    metadata, header = _open(path)
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged ({str(error).splitlines()[0]}); restore it from a copy") from error
    if _TENSORS_CRC in metadata and metadata[_TENSORS_CRC] != str(_crc32c_of_tensors(tensors)):
        raise CheckpointError(f"{path} is damaged: its tensors do not match their CRC-32C; restore it from a copy")
    return tensors, header


def read_text(path: Path) -> str:
    """Return the header of a file made by write_tensors alone. Raises CheckpointError as read_tensors."""
    return _open(path)[1]


def count_parameters(path: Path) -> int:
    """Return the number of values in a file's tensors, without reading them. Raises CheckpointError as read_tensors."""
    _open(path)
    with safe_open(os.fspath(path), framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _open(path: Path) -> tuple[dict[str, str], str]:
    """Return the metadata of safetensors, and the header in it."""
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a safetensors file ({str(error).splitlines()[0]})") from error
    header = metadata.get(_HEADER)
    if header is None:
        raise CheckpointError(f"{path} is a safetensors file but not a tcae checkpoint: its header has no 'tcae' entry")
    # Files of earlier versions have no checksums.
    if _HEADER_CRC in metadata and metadata[_HEADER_CRC] != str(crc32c_of(header.encode())):
        raise CheckpointError(f"{path} is damaged: its header does not match its CRC-32C; restore it from a copy")
    return metadata, header


def _crc32c_of_tensors(tensors: Mapping[str, Tensor]) -> int:
    """Return the CRC-32C of names, dtypes, shapes and bytes of contiguous tensors, in the order of their names."""
    about = {
        name: [str(tensor.dtype), list(tensor.shape), crc32c_of(tensor.reshape(-1).view(torch.uint8).numpy())]
        for name, tensor in tensors.items()
    }
    return crc32c_of_json(about)


def _parse_header(path: Path, header: str) -> CheckpointHeader:
    try:
        return CheckpointHeader.model_validate(json.loads(header))
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its header is not JSON; restore it from a copy") from error
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise CheckpointError(f"{path}: the header's {field} is not what this version of tcae reads") from error
