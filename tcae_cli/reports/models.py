"""The request and the reports of `tcae models`."""

from dataclasses import dataclass
from typing import Any

from tcae_cli.reports.report import Report


@dataclass(frozen=True, kw_only=True)
class CardRequest:
    """`tcae models NAME`."""

    name: str


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """A model that `--model` takes."""

    name: str
    channels: int
    downsampling: int  # pixels a latent position, along a side
    num_parameters: int
    licence: str
    path: str | None  # of the weights, if they are on this machine


@dataclass(frozen=True, kw_only=True)
class Family:
    """The autoencoders whose names begin with the same prefix."""

    prefix: str  # "" of our own
    about: str
    models: list[ListedModel]


@dataclass(frozen=True, kw_only=True)
class ModelsReport(Report):
    """The families of autoencoders, and a few models of each."""

    families: list[Family]


@dataclass(frozen=True, kw_only=True)
class CardReport(Report):
    """The card of a model."""

    name: str
    encoder_hash: str
    image_size: int  # pixels
    is_of_one_size: bool  # images of other sizes are refused
    channels: int
    downsampling: int
    num_parameters: int | None
    generators_take: str | None  # in place of raw latents; None where that is not known
    generator: dict[str, Any] | None  # its shift, scale and patch
    overflows_in_half: bool
    has_posterior: bool  # latents have deviations, which --posterior stores
    spec: dict[str, Any]
