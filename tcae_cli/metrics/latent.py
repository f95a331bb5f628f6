"""How many dimensions latents really use.

Axes: n samples, c channels.
"""

import torch
from torch import Tensor


def effective_rank(values: Tensor) -> float:
    """exp of the entropy of the singular values' shares, of the centred matrix: 0 where nothing varies, to c.

    values: [n, c], a row a sample. State what a row is: every position of every latent, [b*h*w, c], finds dead
    channels; a whole latent, [b, c*h*w], counts dimensions of the images, up to b - 1.
    Source: Roy & Vetterli, "The effective rank", EUSIPCO 2007.
    """
    centred = values.double() - values.double().mean(dim=0)
    return effective_rank_of_covariance(centred.T @ centred)


def effective_rank_of_covariance(covariance: Tensor) -> float:
    """effective_rank of the samples that have this covariance; its scale does not matter. covariance: [c, c]."""
    sigma = torch.linalg.eigvalsh(covariance.double()).clamp_min(0).sqrt()
    if sigma.sum() == 0:
        return 0.0
    shares = sigma / sigma.sum()
    return float(torch.special.entr(shares).sum().exp())
