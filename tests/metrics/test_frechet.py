import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from tcae_cli.metrics.frechet import FeatureSums, frechet_distance


def sums_of(features, num_parts=1):
    return FeatureSums.of(features.tensor_split(num_parts))


def seen(features):
    return sums_of(features).gaussian()


def gaussian(mean, covariance, count=50, seed=0):
    """Samples whose mean and covariance are exactly these."""
    noise = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    white = noise - noise.mean(dim=0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(white.T))).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def random_covariance(width, seed):
    factor = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ factor.T + 0.1 * torch.eye(width, dtype=torch.float64)


def plain_distance(one, other):
    """Compute the distance as the definition reads, with scipy's matrix root."""
    one, other = one.double().numpy(), other.double().numpy()
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    means = np.square(one.mean(0) - other.mean(0)).sum()
    return means + np.trace(first + second - 2 * sqrtm(first @ second).real)


def test_distance_of_gaussians_along_the_axes_is_that_of_means_and_deviations():
    first, second = torch.tensor([[1.0, 4.0, 9.0], [4.0, 4.0, 0.25]], dtype=torch.float64)
    one = gaussian(torch.tensor([0.0, 0.0, 5.0]), torch.diag(first))
    other = gaussian(torch.tensor([3.0, 0.0, 5.0]), torch.diag(second), seed=1)

    expected = 3**2 + (1 - 2) ** 2 + (2 - 2) ** 2 + (3 - 0.5) ** 2
    assert frechet_distance(seen(one), seen(other)) == pytest.approx(expected, abs=1e-9)


def test_distance_of_gaussians_whose_covariances_do_not_commute_equals_the_plain_formula():
    one = gaussian(torch.linspace(0, 2, 6), random_covariance(6, 1))
    other = gaussian(torch.linspace(1, 0, 6), random_covariance(6, 2), seed=1)

    distance = frechet_distance(seen(one), seen(other))
    assert distance == pytest.approx(plain_distance(one, other), rel=1e-8)
    assert distance == pytest.approx(frechet_distance(seen(other), seen(one)), rel=1e-8)


@pytest.mark.parametrize("count", [200, 10], ids=["more samples than dimensions", "fewer"])
def test_features_have_no_distance_to_themselves(count):
    features = torch.randn(count, 32, generator=torch.Generator().manual_seed(0)) + 3

    assert 0 <= frechet_distance(seen(features), seen(features)) < 1e-5


def test_fewer_samples_than_dimensions_give_the_distance_of_the_plain_formula():
    one, other = torch.randn(2, 10, 32, generator=torch.Generator().manual_seed(0))

    distance = frechet_distance(seen(one), seen(other + 1))
    assert distance == pytest.approx(plain_distance(one, other + 1), rel=1e-4)


def exact_distance(one, other):
    """Of fewer samples than dimensions: the root's trace is the nuclear norm of the product of the centred samples."""
    one, other = one.double(), other.double()
    first, second = ((x - x.mean(dim=0)) / (len(x) - 1) ** 0.5 for x in (one, other))
    means = (one.mean(dim=0) - other.mean(dim=0)).square().sum()
    nuclear = torch.linalg.svdvals(first @ second.T).sum()
    return float(means + first.square().sum() + second.square().sum() - 2 * nuclear)


def test_few_samples_of_many_dimensions_give_the_exact_distance():
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(20, 512, generator=generator)
    other = (one + 0.1 * torch.randn(20, 512, generator=generator)).relu()

    assert frechet_distance(seen(one), seen(other)) == pytest.approx(exact_distance(one, other), rel=1e-8)


def test_what_is_not_a_number_has_no_distance():
    features = torch.rand(8, 4)
    features[3, 1] = float("nan")
    assert np.isnan(frechet_distance(seen(features), seen(torch.rand(8, 4))))


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_sums_of_ranks_add_up_to_those_of_one(num_ranks):
    features = torch.rand(50, 8, generator=torch.Generator().manual_seed(0))
    alone = sums_of(features, num_parts=7)

    together = FeatureSums.zero(8)
    for part in features.tensor_split(num_ranks):
        for total, tensor in zip(together.tensors(), sums_of(part).tensors(), strict=True):
            total += tensor

    assert together.count == alone.count == 50
    torch.testing.assert_close(together.gaussian().mean, features.double().mean(dim=0), rtol=1e-12, atol=0)
    torch.testing.assert_close(together.gaussian().covariance, alone.gaussian().covariance, rtol=1e-10, atol=1e-13)


def test_the_covariance_is_the_unbiased_one():
    features = torch.rand(20, 5, generator=torch.Generator().manual_seed(0))

    torch.testing.assert_close(sums_of(features, 3).gaussian().covariance, torch.cov(features.double().T))


def test_one_sample_has_no_covariance():
    with pytest.raises(ValueError, match="a covariance needs two samples, found 1"):
        sums_of(torch.zeros(1, 4)).gaussian()
