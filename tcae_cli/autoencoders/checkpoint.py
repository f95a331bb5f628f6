"""A model in one safetensors file: the weights, and in the header the model's description and identity."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tcae_cli.errors import CheckpointError
from tcae_cli.model.identity import ENCODER_VERSION, decoder_hash, encoder_hash
from tcae_cli.recipe.schema import ModelSpec
from tcae_cli.runtime.files import write_atomic

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
    write_atomic(path, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"tcae": header}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors and the header of a file made by write_tensors. Raises CheckpointError if it is not one."""
    names, header = _open(path)
    with safe_open(os.fspath(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in names}, header


def read_text(path: Path) -> str:
    """Return the header of a file made by write_tensors alone. Raises CheckpointError as read_tensors."""
    return _open(path)[1]


def _open(path: Path) -> tuple[list[str], str]:
    """Return the names of the tensors, and the header."""
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            header = (file.metadata() or {}).get("tcae")
            names = list(file.keys())
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file ({error})") from error
    if header is None:
        raise CheckpointError(f"{path} is a safetensors file but not a tcae checkpoint: its header has no 'tcae' entry")
    return names, header


def _parse_header(path: Path, header: str) -> CheckpointHeader:
    try:
        return CheckpointHeader.model_validate(json.loads(header))
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise CheckpointError(f"{path}: the header's {field} is not what this version of tcae reads") from error
