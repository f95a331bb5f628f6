"""Families of autoencoders: the prefix of a model's name decides its family, which gives the card and the model.

To add a family, write a class like NamedModel in a file of its own and add its line to FAMILIES.
Axes: b batch, h w pixels, c latent channels, f pixels a latent position covers along a side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from tcae_cli.autoencoders.published import PublishedModel
from tcae_cli.errors import UsageError
from tcae_cli.runtime.registry import Registry
from tcae_cli.store.generator_input import GeneratorInput


class Autoencoder(Protocol):
    """A model that is frozen, float32, in eval mode and on one device."""

    def encode(self, images: Tensor) -> Tensor:
        """Return latents [b, c, h/f, w/f], raw and unscaled, of images [b, 3, h, w] in [-1, 1]."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [b, 3, h, w], about [-1, 1] and not clamped, of latents [b, c, h/f, w/f]."""


@runtime_checkable
class WithPosterior(Protocol):
    """An Autoencoder whose latents may be means of distributions: its card says whether they are."""

    def encode_posterior(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return latents as Autoencoder.encode, and their standard deviations, alike; None if they have none."""


@dataclass(frozen=True)
class ModelCard:
    """The facts of a model that are known without its weights."""

    name: str
    encoder_hash: str
    image_size: int  # pixels, square, that it was trained at
    latent_channels: int
    downsampling: int  # pixels a latent position, along a side
    spec: dict[str, Any]
    recipe: dict[str, Any]
    num_parameters: int | None = None  # of encoder and decoder
    has_blocks: bool = False  # transformer blocks of our own, which can be compiled
    generator: GeneratorInput | None = None  # what its own generators take; None where that is not known
    overflows_in_half: bool = False  # whether it is known to compute values beyond float16
    has_decoder: bool = True
    is_of_one_size: bool = False  # whether images of sizes other than image_size are refused
    has_posterior: bool = False  # whether latents are means of distributions, with deviations

    def refuse_without_posterior(self) -> None:
        """Raise UsageError if the model gives latents alone, and no distribution of them."""
        if not self.has_posterior:
            raise UsageError(
                f"--posterior stores the deviations of latents, and {self.name} gives latents without any; "
                f"omit --posterior, or name a model with a distribution, such as SD's autoencoder"
            )

    def refuse_without_decoder(self) -> None:
        """Raise UsageError if there is no way back from latents to images."""
        if not self.has_decoder:
            raise UsageError(no_decoder_words(self.name))

    def refuse_size(self, size: int) -> None:
        """Raise UsageError if the model does not encode images of this size, in pixels."""
        if self.is_of_one_size and size != self.image_size:
            raise UsageError(f"{self.name} encodes images of {self.image_size} px alone; omit --size {size}")
        if size % self.downsampling:
            nearest = max(1, round(size / self.downsampling)) * self.downsampling
            raise UsageError(
                f"--size {size} is not a multiple of {self.downsampling}, a latent's pixels in {self.name}; "
                f"try {nearest}"
            )


def no_decoder_words(name: str) -> str:
    """Return the sentence that refuses to decode the latents of an encoder alone."""
    return f"{name} is an encoder without a decoder, so its latents become no images; name a model that has one"


class NamedModel(Protocol):
    """A model that a name leads to. A family makes one of the whole name, prefix included.

    Making one raises NotFoundError if the name leads nowhere; all of it raises CheckpointError if the model is unsound.
    """

    about: ClassVar[str]  # the family, and the forms of its names
    published: ClassVar[Callable[[], list[PublishedModel]]]  # gives a few models that can be had

    def __init__(self, name: str) -> None: ...

    def card(self) -> ModelCard:
        """Return the card."""

    def load(self, device: str | torch.device) -> Autoencoder:
        """Return the model, on the device."""


# The longest prefix of the name that is here decides.
FAMILIES: Registry[type[NamedModel]] = Registry(
    {
        "": "tcae_cli.autoencoders.tcae:TcaeModel",
        "timm:": "tcae_cli.autoencoders.timm:TimmModel",
        "diffusers:": "tcae_cli.autoencoders.diffusers:DiffusersModel",
    }
)
