"""The reconstruction loss: the weighted sum of the terms that a recipe switches on.

Axes: b images, h w pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

from tcae_cli.losses.registry import TERMS
from tcae_cli.recipe.schema import ReconstructionSpec

LoadNetwork = Callable[[str], Any]  # returns a frozen feature network by its name in the recipe, on the run's device


class Term(ABC):
    """A term of the reconstruction loss: its weight, the networks it needs, and what it computes.

    `loss.NAME` in a recipe switches the term NAME on; its file is losses/NAME.py.
    """

    weight: float

    @abstractmethod
    def __init__(self, setting: Any, load_network: LoadNetwork) -> None:
        """Take the value of the term's key in the recipe, and load the networks that the term needs."""

    @abstractmethod
    def __call__(self, decoded: Tensor, original: Tensor) -> Tensor:
        """Return the unweighted loss, a scalar, of two batches [b, 3, h, w], float32 in [-1, 1]."""


class ReconstructionLoss:
    """The terms that a recipe switches on, in the recipe's order, and their weighted sum."""

    def __init__(self, spec: ReconstructionSpec, load_network: LoadNetwork) -> None:
        settings = {name: getattr(spec, name) for name in TERMS}
        self.terms = {name: TERMS[name](given, load_network) for name, given in settings.items() if given is not None}

    def __call__(self, decoded: Tensor, original: Tensor) -> dict[str, Tensor]:
        """Return each term's unweighted value by name, and the weighted sum as `loss`; all are scalars.

        decoded, original: [b, 3, h, w], float32 in [-1, 1].
        """
        values = {name: term(decoded, original) for name, term in self.terms.items()}
        return values | {"loss": self.weighted_sum(values)}

    def weighted_sum(self, values: dict[str, Tensor]) -> Tensor:
        """Return the scalar to differentiate: the sum of the terms' values times their weights."""
        first, *others = (term.weight * values[name] for name, term in self.terms.items())
        return sum(others, start=first)
