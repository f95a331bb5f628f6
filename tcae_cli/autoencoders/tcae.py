"""The family of our own models: checkpoints in files, in run folders, on the Hugging Face Hub and built in."""

from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import torch
from torch import Tensor, nn

from tcae_cli.autoencoders.checkpoint import MODEL_FILE, CheckpointHeader, Parent, count_parameters, read_checkpoint
from tcae_cli.autoencoders.families import ModelCard
from tcae_cli.autoencoders.published import PublishedModel
from tcae_cli.errors import CheckpointError, NotFoundError
from tcae_cli.model.identity import ENCODER_PARTS
from tcae_cli.model.layers import PositionEmbedding
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import ModelSpec
from tcae_cli.runtime.hub_models import fetch_model_file
from tcae_cli.store.generator_input import GeneratorInput

BUILTIN = Path(__file__).parents[1] / "builtin"


class TcaeModel:
    """The model of a file, a run folder, `hf://org/name[@revision]` or a built-in name."""

    about = "TC-AE, our own: a built-in name, a file, a run folder or hf://org/name[@revision]"

    def __init__(self, name: str) -> None:
        """Raises NotFoundError if the name leads nowhere."""
        self.name = name
        self.path = _find_file(name)

    def card(self) -> ModelCard:
        """Return the card. Raises CheckpointError if the file is not a sound tcae checkpoint, as `load` does."""
        header = CheckpointHeader.read(self.path)
        return ModelCard(
            name=self.name,
            encoder_hash=header.encoder_hash,
            image_size=header.spec.image_size,
            latent_channels=header.spec.latent_channels,
            downsampling=header.spec.downsampling,
            spec=header.spec.model_dump(mode="json"),
            recipe=header.recipe,
            num_parameters=count_parameters(self.path),
            has_blocks=True,
            generator=GeneratorInput.of_statistics(header.statistics.mean, header.statistics.std),
        )

    @staticmethod
    def published() -> list[PublishedModel]:
        """Return the built-in models."""
        found = []
        for path in sorted(BUILTIN.glob("*.safetensors")):
            card = TcaeModel(path.stem).card()
            assert card.num_parameters is not None
            found.append(
                PublishedModel(
                    name=card.name,
                    channels=card.latent_channels,
                    downsampling=card.downsampling,
                    num_parameters=card.num_parameters,
                    licence="Apache-2.0, see its terms",
                    path=path,
                )
            )
        return found

    def load(self, device: str | torch.device) -> TCAE:
        """Return the model on the device: frozen, float32, in eval mode."""
        tensors, header = read_checkpoint(self.path)
        with torch.device("meta"):  # draws no random weights, which would take longer than reading the file
            model = TCAE(header.spec)
        fill_autoencoder(model, tensors, f"{self.path}: the weights do not fit the model its header describes")
        return model.to(device).eval().requires_grad_(False)


def read_header(name: str) -> CheckpointHeader:
    """Return the header of the checkpoint of that name, without reading the weights. Raises as TcaeModel."""
    return CheckpointHeader.read(_find_file(name))


def load_parent(name: str, spec: ModelSpec, *, freeze_encoder: bool) -> tuple[TCAE, Parent, dict[str, Tensor]]:
    """Return a model of `spec` to train, with the weights of another, which is the parent, and tensors to ship.

    The model is float32. The two may differ in image_size: learnt positions are resized bicubically. A frozen encoder
    keeps the positions of its file and trains nothing, and its tensors are to be shipped exactly as stored.
    Raises NotFoundError if the name leads nowhere, CheckpointError if the model is unsound or does not fit `spec`.
    """
    path = _find_file(name)
    tensors, header = read_checkpoint(path)
    model = TCAE(spec)
    sides = {part: part.weight.shape[1] for part in _positions(model).values()}
    fill_autoencoder(model, tensors, f"{path}: the weights do not fit the recipe's model; omit its keys of `model`")

    kept = {key: value for key, value in tensors.items() if freeze_encoder and key.startswith(ENCODER_PARTS)}
    with torch.no_grad():
        for key, part in _positions(model).items():
            if key not in kept:
                grid = part.weight.new_zeros(1, sides[part], sides[part], part.weight.shape[3])
                part.weight = nn.Parameter(part(grid))  # resized to the grid, to which they are added
    for key, parameter in model.named_parameters():
        if key in kept:
            parameter.requires_grad_(False)
    return model, parent_of(header), kept


def parent_of(header: CheckpointHeader) -> Parent:
    """Return a model as the parent of those that are finetuned from it."""
    return Parent(name=header.name, encoder_hash=header.encoder_hash, decoder_hash=header.decoder_hash)


def fill_autoencoder(model: TCAE, tensors: Mapping[str, Tensor], misfit: str) -> None:
    """Load weights into a model, whose learnt positions take on the stored grids; a model on "meta" takes the tensors.

    Raises CheckpointError with the message `misfit` if the weights are those of another model.
    """
    for key, part in _positions(model).items():
        stored = tensors.get(key)
        if stored is not None and stored.ndim == part.weight.ndim:
            part.weight = nn.Parameter(part.weight.new_empty(1, *stored.shape[1:3], part.weight.shape[3]))
    try:
        if next(model.parameters()).is_meta:
            model.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, assign=True)
        else:
            model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(misfit) from error


def _find_file(name: str) -> Path:
    if name.startswith("hf://"):
        return _fetch(name)
    if (builtin := BUILTIN / f"{name}.safetensors").is_file():
        return builtin
    path = Path(name)
    if path.is_dir():
        path = path / MODEL_FILE
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in BUILTIN.glob("*.safetensors"))) or "a built-in name"
        raise NotFoundError(f"no model at {path}; give a file, a run folder, hf://org/name or {known}")
    return path


def _fetch(name: str) -> Path:
    """Return where the Hub's client keeps the model's file, fetched if need be."""
    repository, _, revision = name.removeprefix("hf://").partition("@")
    try:
        return fetch_model_file(repository, MODEL_FILE, revision or None)
    except (huggingface_hub.errors.HfHubHTTPError, huggingface_hub.errors.HFValidationError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise NotFoundError(
            f"{name}: {MODEL_FILE} could not be fetched ({reason}); check the name and the network"
        ) from error


def _positions(model: TCAE) -> dict[str, PositionEmbedding]:
    """Return the learnt positions of encoder and decoder by the names of their weights."""
    return {f"{name}.weight": part for name, part in model.named_modules() if isinstance(part, PositionEmbedding)}
