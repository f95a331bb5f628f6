"""A family of autoencoders is a class and a line of the registry."""

import pytest
import torch

from tcae_cli.autoencoders.by_name import read_card
from tcae_cli.autoencoders.families import FAMILIES, ModelCard
from tcae_cli.autoencoders.runner import load_runner


class Pixels:
    """A toy family: a latent is an image of a quarter of the side."""

    def __init__(self, name: str) -> None:
        self._name = name

    def card(self) -> ModelCard:
        return ModelCard(self._name, "0" * 64, 64, latent_channels=3, downsampling=4, spec={}, recipe={})

    def load(self, device) -> "Pixels":
        return self

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :, ::4, ::4]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)


@pytest.fixture
def pixels(add) -> str:
    add(FAMILIES, "pixels:", Pixels)
    return "pixels:any"


def test_a_family_is_found_by_the_prefix_of_the_name(pixels):
    assert read_card(pixels).downsampling == 4
    runner = load_runner(pixels, torch.device("cpu"), "fp32")
    images = torch.full((2, 3, 8, 8), 200, dtype=torch.uint8)
    assert runner.encode(images).shape == (2, 3, 2, 2)
    assert torch.equal(runner.decode(runner.encode(images)), images)


def test_families_are_listed_without_importing_them():
    assert list(FAMILIES) == ["", "timm:", "diffusers:"]
