"""A model in one safetensors file: weights, and in the header what they are and whose latents they make."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from tcae_cli.errors import CheckpointError, NotFoundError
from tcae_cli.model.identity import ENCODER_PARTS, ENCODER_VERSION, decoder_hash, encoder_hash
from tcae_cli.model.layers import PositionEmbedding
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import ModelSpec
from tcae_cli.runtime.files import write_atomic

MODEL_FILE = "model.safetensors"  # in a run folder and in a repository of the Hub
BUILTIN = Path(__file__).parents[1] / "builtin"
DEFAULT_MODEL = "tcae-tiny"


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
    """What a checkpoint says of itself."""

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


def load_autoencoder(name: str = DEFAULT_MODEL, device: str | torch.device = "cpu") -> TCAE:
    """The model of a file, a run folder, `hf://org/name[@revision]` or a built-in name; float32, in eval mode.

    Raises NotFoundError if the name leads nowhere, CheckpointError if the file is not a sound tcae checkpoint.
    """
    path = resolve(name)
    tensors, header = _read_model(path)
    model = TCAE(header.spec)
    fill_autoencoder(model, tensors, f"{path}: the weights do not fit the model its header describes")
    return model.to(device).eval().requires_grad_(False)


def load_parent(name: str, spec: ModelSpec, *, freeze_encoder: bool) -> tuple[TCAE, Parent, dict[str, Tensor]]:
    """A model of `spec` to train, float32, with the weights of another; who that is; and the tensors to ship unchanged.

    The two may differ in image_size: learnt positions are resized bicubically. A frozen encoder keeps the positions of
    its file, trains nothing, and its tensors, exactly as stored, are those to ship; else there are none.
    Raises as load_autoencoder, and CheckpointError if the weights do not fit `spec`.
    """
    path = resolve(name)
    tensors, header = _read_model(path)
    model = TCAE(spec)
    sides = {part: part.weight.shape[1] for part in _positions(model).values()}
    fill_autoencoder(
        model, tensors, f"{path}: the weights do not fit the recipe's model; leave its keys of `model` away"
    )

    kept = {key: value for key, value in tensors.items() if freeze_encoder and key.startswith(ENCODER_PARTS)}
    for key, part in _positions(model).items():
        if key not in kept:
            _resize(part, sides[part])
    for key, parameter in model.named_parameters():
        if key in kept:
            parameter.requires_grad_(False)
    parent = Parent(name=header.name, encoder_hash=header.encoder_hash, decoder_hash=header.decoder_hash)
    return model, parent, kept


def read_header(name: str) -> CheckpointHeader:
    """What the checkpoint says of itself, without reading its weights. Raises as load_autoencoder."""
    path = resolve(name)
    return _parse_header(path, _open(path)[1])


def save_checkpoint(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    spec: ModelSpec,
    statistics: LatentStatistics,
    recipe: dict[str, Any],
    step: int,
    parent: Parent | None = None,
) -> CheckpointHeader:
    """Write a model atomically; `tensors` in the dtype to be shipped, since the hashes are over what is stored."""
    header = CheckpointHeader(
        name=path.parent.name if path.name == MODEL_FILE else path.stem,
        spec=spec,
        encoder_hash=encoder_hash(tensors, spec),
        decoder_hash=decoder_hash(tensors, spec),
        statistics=statistics,
        recipe=recipe,
        step=step,
        parent=parent,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_tensors(path, tensors, header.model_dump_json())
    return header


def resolve(name: str) -> Path:
    """The file a model name means. Raises NotFoundError if there is none."""
    if name.startswith("hf://"):
        return _from_hub(name)
    if (builtin := BUILTIN / f"{name}.safetensors").is_file():
        return builtin
    path = Path(name)
    if path.is_dir():
        path = path / MODEL_FILE
    if not path.is_file():
        raise NotFoundError(f"no model at {path}; give a file, a run folder, hf://org/name or {_builtin_names()}")
    return path


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: str) -> None:
    """Write tensors and a JSON header in one safetensors file, atomically."""
    write_atomic(path, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"tcae": header}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file made by write_tensors, and its header. Raises CheckpointError if it is not one."""
    names, header = _open(path)
    with safe_open(os.fspath(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in names}, header


def _read_model(path: Path) -> tuple[dict[str, Tensor], CheckpointHeader]:
    tensors, text = read_tensors(path)
    header = _parse_header(path, text)
    if encoder_hash(tensors, header.spec) != header.encoder_hash:
        raise CheckpointError(f"{path}: the encoder's tensors do not match the hash in the header; the file is damaged")
    return tensors, header


def fill_autoencoder(model: TCAE, tensors: Mapping[str, Tensor], otherwise: str) -> None:
    """Weights into a model, whose learnt positions take on their grids. Raises CheckpointError(otherwise)."""
    for key, part in _positions(model).items():
        stored = tensors.get(key)
        if stored is not None and stored.ndim == part.weight.ndim:
            part.weight = nn.Parameter(part.weight.new_empty(1, *stored.shape[1:3], part.weight.shape[3]))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(otherwise) from error


def _positions(model: TCAE) -> dict[str, PositionEmbedding]:
    """Those of encoder and decoder, by the names of their weights."""
    return {f"{name}.weight": part for name, part in model.named_modules() if isinstance(part, PositionEmbedding)}


@torch.no_grad()
def _resize(positions: PositionEmbedding, side: int) -> None:
    nothing = positions.weight.new_zeros(1, side, side, positions.weight.shape[3])
    positions.weight = nn.Parameter(positions(nothing))


def _open(path: Path) -> tuple[list[str], str]:
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            header = (file.metadata() or {}).get("tcae")
            names = list(file.keys())
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file ({error})") from error
    if header is None:
        raise CheckpointError(f"{path} is a safetensors file but no tcae checkpoint: its header has no 'tcae' entry")
    return names, header


def _parse_header(path: Path, header: str) -> CheckpointHeader:
    try:
        return CheckpointHeader.model_validate(json.loads(header))
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise CheckpointError(f"{path}: the header's {field} is not what this version of tcae reads") from error


def _from_hub(name: str) -> Path:
    repository, _, revision = name.removeprefix("hf://").partition("@")
    try:
        return Path(huggingface_hub.hf_hub_download(repository, MODEL_FILE, revision=revision or None))
    except (huggingface_hub.errors.HfHubHTTPError, huggingface_hub.errors.HFValidationError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise NotFoundError(
            f"{name}: {MODEL_FILE} could not be fetched ({reason}); check the name and the network"
        ) from error


def _builtin_names() -> str:
    return ", ".join(sorted(path.stem for path in BUILTIN.glob("*.safetensors"))) or "a built-in name"
