"""The reconstruction loss: absolute error of pixels plus a perceptual distance."""

from torch import Tensor

from tcae_cli.losses.perceptual import PerceptualDistance
from tcae_cli.recipe.schema import LossSpec


def reconstruction_terms(decoded: Tensor, original: Tensor, perceptual: PerceptualDistance | None) -> dict[str, Tensor]:
    """The unweighted terms, each a scalar: `l1` in [0, 1] pixels, and `perceptual` where a network is given.

    decoded, original: [b, 3, h, w], float32 in [-1, 1]. Source: RAE's setup, TCAE.md section 3.
    """
    terms = {"l1": (decoded - original).abs().mean() / 2}
    if perceptual is not None:
        terms["perceptual"] = perceptual(decoded, original).mean()
    return terms


def weighted_sum(terms: dict[str, Tensor], spec: LossSpec) -> Tensor:
    """The scalar to differentiate: each term times its weight in the recipe."""
    total = spec.l1 * terms["l1"]
    if spec.perceptual is not None:
        total = total + spec.perceptual.weight * terms["perceptual"]
    return total
