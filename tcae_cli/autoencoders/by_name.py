"""Models of every family by name: the card and the model itself."""

import torch

from tcae_cli.autoencoders.families import FAMILIES, Autoencoder, ModelCard, NamedModel
from tcae_cli.recipe.choices import DEFAULT_MODEL


def read_card(name: str) -> ModelCard:
    """Return the card of the model in a file, in a run folder, at `hf://org/name[@revision]` or of a built-in name.

    Or of a diffusers model, in `diffusers:FOLDER` or at `diffusers:org/name[@revision]`.
    Raises NotFoundError if the name leads nowhere, CheckpointError if the model is unsound.
    """
    return _find_model(name).card()


def load_autoencoder(name: str = DEFAULT_MODEL, device: str | torch.device = "cpu") -> Autoencoder:
    """Load the model of that name onto the device. Raises as read_card."""
    return _find_model(name).load(device)


def _find_model(name: str) -> NamedModel:
    prefix = max((prefix for prefix in FAMILIES if name.startswith(prefix)), key=len)
    return FAMILIES[prefix](name)
