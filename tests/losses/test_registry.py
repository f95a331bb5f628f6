"""The losses' registry follows the recipe: each name leads to a class, and a new term is one class and one key."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from tcae_cli.losses.discriminator import Discriminator
from tcae_cli.losses.reconstruction import ReconstructionLoss, Term
from tcae_cli.losses.registry import DISCRIMINATORS, TERMS
from tcae_cli.recipe.schema import LossSpec


class SquaredError(Term):
    """A toy term."""

    def __init__(self, setting: float, load_network) -> None:
        self.weight = setting

    def __call__(self, decoded: Tensor, original: Tensor) -> Tensor:
        return (decoded - original).square().mean()


class ToySpec(LossSpec):
    """The losses' section with the toy's key."""

    l2: float | None = None


@pytest.fixture
def toy_term(add) -> None:
    add(TERMS, "l2", SquaredError)


def test_a_term_is_one_class_and_one_key_of_the_recipe(toy_term):
    black, white = -torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4)

    with_toy = ReconstructionLoss(ToySpec(perceptual=None, l2=0.5), nn.Module)
    assert with_toy(black, white) == {"l1": 1.0, "l2": 4.0, "loss": 3.0}
    assert ReconstructionLoss(ToySpec(perceptual=None), nn.Module)(black, white).keys() == {"l1", "loss"}


def test_every_name_leads_to_its_class():
    assert list(TERMS) == ["l1", "perceptual"]
    assert list(DISCRIMINATORS) == [
        "dino-s8",
        "dino-s16",
        "squeezenet1_1",
        "patchgan",
    ]
    assert all(issubclass(term, Term) for term in TERMS.values())
    assert all(issubclass(discriminator, Discriminator) for discriminator in DISCRIMINATORS.values())


def test_listing_the_names_imports_no_torch():
    code = (
        "import sys; from tcae_cli.losses.registry import DISCRIMINATORS, TERMS; print(*TERMS, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["l1", "perceptual", "False"]
