import math

import numpy as np
import pytest
import torch

from tcae_cli.metrics.latent import effective_rank, effective_rank_of_covariance


def latents(rank, channels=16, count=4000, seed=0):
    """Of equal variance in `rank` directions of `channels`, and of none in the others."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(channels, channels, generator=generator))[0]
    return torch.randn(count, rank, generator=generator) @ rotation[:rank]


@pytest.mark.parametrize("rank", [1, 3, 8, 16])
def test_latents_of_a_known_rank_have_it(rank):
    assert effective_rank(latents(rank)) == pytest.approx(rank, rel=2e-3)


def test_directions_count_by_their_deviation():
    values = latents(2, channels=2, count=100_000) @ torch.diag(torch.tensor([3.0, 1.0]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))

    aligned = values @ torch.eye(2)
    assert effective_rank_of_covariance(torch.diag(torch.tensor([9.0, 1.0]))) == pytest.approx(math.exp(entropy))
    assert 1.0 < effective_rank(aligned) < 2.0


def test_rank_equals_that_of_the_singular_values_of_the_centred_matrix():
    values = latents(5) @ torch.randn(16, 16, generator=torch.Generator().manual_seed(3)) + 2
    sigma = np.linalg.svd((values - values.mean(dim=0)).double().numpy(), compute_uv=False)
    shares = sigma[sigma > 1e-3 * sigma[0]] / sigma.sum()

    assert effective_rank(values) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)


def test_an_offset_of_all_latents_changes_nothing():
    assert effective_rank(latents(3) + 100) == pytest.approx(effective_rank(latents(3)), rel=1e-3)


def test_the_scale_of_a_covariance_changes_nothing():
    covariance = torch.cov(latents(7).T.double())

    assert effective_rank_of_covariance(1e-6 * covariance) == pytest.approx(effective_rank(latents(7)), rel=1e-3)


def test_latents_that_do_not_vary_have_rank_nought():
    assert effective_rank(torch.full((10, 4), 2.0)) == 0
