"""The Frechet distance between two sets of features, each seen as a Gaussian, from sums that add up over ranks.

Axes: n samples, d width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """Mean [d] and covariance [d, d] of features, float64."""

    mean: Tensor
    covariance: Tensor


@dataclass
class FeatureSums:
    """Sums that give mean and covariance: on the CPU, float64, whatever device the features are on."""

    count: Tensor  # [], int64
    total: Tensor  # [d]
    products: Tensor  # [d, d], the sum of outer products

    @classmethod
    def zero(cls, width: int) -> "FeatureSums":
        """Return the sums of no features of this width."""
        zeros = torch.zeros(width + 1, width, dtype=torch.float64)
        return cls(torch.tensor(0), zeros[0], zeros[1:])

    @classmethod
    def of(cls, batches: Sequence[Tensor]) -> "FeatureSums":
        """Return the sums of these features, [n, d] each."""
        sums = cls.zero(batches[0].shape[1])
        for features in batches:
            sums.add(features)
        return sums

    def add(self, features: Tensor) -> None:
        """Count features, [n, d], float."""
        features = features.double().cpu()
        self.count += len(features)
        self.total += features.sum(dim=0)
        self.products += features.T @ features

    def tensors(self) -> list[Tensor]:
        """Return all tensors; those of several ranks add up."""
        return [self.count, self.total, self.products]

    def gaussian(self) -> Gaussian:
        """Return mean and unbiased covariance. Raises ValueError if there are fewer than two samples."""
        if self.count < 2:
            raise ValueError(f"a covariance needs two samples, found {int(self.count)}")
        mean = self.total / self.count
        return Gaussian(mean, (self.products - self.count * torch.outer(mean, mean)) / (self.count - 1))


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), at least 0: the FID, if the features are the FID Inception's.

    It is NaN where features are not finite. Few samples bias it upwards, more so if they are fewer than d: compare at
    equal numbers.
    Source: Heusel et al. (arXiv:1706.08500). The root's trace is taken of (C1^(1/2) C2 C1^(1/2))^(1/2),
    which has the same eigenvalues and is symmetric, so that two symmetric eigenvalue problems suffice.
    """
    first, second = one.covariance, other.covariance
    if not (first.isfinite().all() and second.isfinite().all()):
        return math.nan
    root = _square_root(first)
    squares = _without_noise(torch.linalg.eigvalsh(root @ second @ root))
    means = (one.mean - other.mean).square().sum()
    return float((means + first.trace() + second.trace() - 2 * squares.sqrt().sum()).clamp_min(0))


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * _without_noise(values).sqrt()) @ vectors.T


def _without_noise(values: Tensor) -> Tensor:
    """Return eigenvalues [d] with 0 for those that are rounding errors.

    Of fewer samples than d most are, and their roots would add up.
    """
    return torch.where(values < len(values) * torch.finfo(values.dtype).eps * values.max(), 0, values)
