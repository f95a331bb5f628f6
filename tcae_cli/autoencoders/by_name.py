"""A model by any name: our own, or one that a library of others keeps; encode, decode, and whose latents these are.

Axes: b batch, h w pixels, c latent channels, f pixels a latent position covers along a side.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tcae_cli.autoencoders import checkpoint
from tcae_cli.autoencoders.diffusers import PREFIX, load_diffusers_model, read_diffusers_card


class Autoencoder(Protocol):
    """Frozen, float32, in eval mode, on one device."""

    def encode(self, images: Tensor) -> Tensor:
        """Latents [b, c, h/f, w/f], raw and unscaled, of images [b, 3, h, w] in [-1, 1]."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images [b, 3, h, w], about [-1, 1] and not clamped, of latents [b, c, h/f, w/f]."""


@dataclass(frozen=True)
class ModelCard:
    """What a model is, known without its weights."""

    name: str
    encoder_hash: str
    image_size: int  # pixels, square, that it was trained at
    latent_channels: int
    downsampling: int  # pixels a latent position, along a side
    spec: dict[str, Any]
    recipe: dict[str, Any]


def read_card(name: str) -> ModelCard:
    """What is known of the model of a file, a run folder, `hf://org/name[@revision]` or a built-in name.

    Or of diffusers' in `diffusers:FOLDER` or `diffusers:org/name[@revision]`.
    Raises NotFoundError if the name leads nowhere, CheckpointError if it is not a sound model.
    """
    if name.startswith(PREFIX):
        return ModelCard(name=name, recipe={}, **vars(read_diffusers_card(name)))
    header = checkpoint.read_header(name)
    return ModelCard(
        name=name,
        encoder_hash=header.encoder_hash,
        image_size=header.spec.image_size,
        latent_channels=header.spec.latent_channels,
        downsampling=header.spec.downsampling,
        spec=header.spec.model_dump(mode="json"),
        recipe=header.recipe,
    )


def load_autoencoder(name: str = checkpoint.DEFAULT_MODEL, device: str | torch.device = "cpu") -> Autoencoder:
    """The model of that name, on the device. Raises as read_card."""
    if name.startswith(PREFIX):
        return load_diffusers_model(name, device)
    return checkpoint.load_autoencoder(name, device)
