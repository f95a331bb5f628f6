"""Statistics of latents: how many dimensions they really use, and how their channels are distributed.

Axes: n samples, b images, c channels, h w positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tcae_cli.metrics.frechet import FeatureSums

_DEAD = 1 / 100  # of the median channel's std
_DOMINANT = 10  # times the median channel's variance
_SMALLEST_SHARE = 1e-12  # of the mean square: a variance below it is what rounding leaves of a constant


def effective_rank(values: Tensor) -> float:
    """Return exp of the entropy of the singular values' shares, of the centred matrix: 0 where nothing varies, to c.

    values: [n, c], a row a vector. State what a row is: every position of every latent, [b*h*w, c], finds dead
    channels; a whole latent, [b, c*h*w], counts dimensions of the images, up to b - 1.
    Source: Roy & Vetterli, "The effective rank", EUSIPCO 2007.
    """
    centred = values.double() - values.double().mean(dim=0)
    return effective_rank_of_covariance(centred.T @ centred)


def effective_rank_of_covariance(covariance: Tensor) -> float:
    """Return effective_rank of vectors that have this covariance, whatever its scale. covariance: [c, c]."""
    sigma = torch.linalg.eigvalsh(covariance.double()).clamp_min(0).sqrt()
    if sigma.sum() == 0:
        return 0.0
    shares = sigma / sigma.sum()
    return float(torch.special.entr(shares).sum().exp())


@dataclass
class LatentSums:
    """Sums that give every statistic here: on the CPU, float64, whatever device the latents are on.

    Figures and curves need at least one latent. The correlation of what does not vary, or has no neighbours, is 0.
    """

    positions: FeatureSums  # over all positions of all latents
    num_pairs: Tensor  # [], int64, of positions beside or above one another
    pairs: Tensor  # [3, c]: sums over pairs of both values, of both squares, and of their products

    @classmethod
    def zero(cls, channels: int) -> "LatentSums":
        """Return the sums of no latents of so many channels."""
        return cls(FeatureSums.zero(channels), torch.tensor(0), torch.zeros(3, channels, dtype=torch.float64))

    def add(self, latents: Tensor) -> None:
        """Count latents, [b, c, h, w], float."""
        latents = latents.double().cpu()
        self.positions.add(latents.movedim(1, -1).flatten(0, 2))
        for axis in (2, 3):
            length = latents.shape[axis]
            one, other = latents.narrow(axis, 0, length - 1), latents.narrow(axis, 1, length - 1)
            self.num_pairs += one[:, 0].numel()
            for total, values in zip(
                self.pairs, (one + other, one.square() + other.square(), one * other), strict=True
            ):
                total += values.sum(dim=(0, 2, 3))

    def tensors(self) -> list[Tensor]:
        """Return all tensors; those of several ranks add up."""
        return [*self.positions.tensors(), self.num_pairs, self.pairs]

    def effective_rank(self) -> float:
        """Return effective_rank of every position of every latent; 0 to c."""
        return effective_rank_of_covariance(self._covariance())

    def figures(self) -> dict[str, float]:
        """Return counts of channels, their standard deviations, and the correlation of neighbouring positions.

        A channel is dead if its deviation is a hundredth of the median channel's or less, and dominant if its variance
        is more than ten times the median's. The rule is the same for 4 channels as for 128; where most channels are
        constant, it calls the others dominant. The spatial correlation is the mean over channels that are not dead.
        """
        std = self._std()
        median = std.quantile(0.5)
        dead = std <= _DEAD * median
        live = self._spatial_correlation()[~dead]
        return {
            "dead-channels": float(dead.sum()),
            "dominant-channels": float((std.square() > _DOMINANT * median.square()).sum()),
            "channel-std-min": float(std.min()),
            "channel-std-median": float(median),
            "channel-std-max": float(std.max()),
            "spatial-correlation": float(live.mean()) if len(live) else 0.0,
        }

    def curves(self) -> dict[str, list[float]]:
        """Return lists of a value a channel: "mean", "std", "spatial_correlation" in [-1, 1], and "spectrum".

        The spectrum is the share of the variance of each principal component of the positions, descending.
        """
        variances = torch.linalg.eigvalsh(self._covariance()).clamp_min(0).flip(0)
        return {
            "mean": (self.positions.total / self.positions.count).tolist(),
            "std": self._std().tolist(),
            "spatial_correlation": self._spatial_correlation().tolist(),
            "spectrum": _ratio(variances, variances.sum()).tolist(),
        }

    def _covariance(self) -> Tensor:
        """Return the covariance [c, c], divided by the count; that of a single position is zero."""
        mean = self.positions.total / self.positions.count
        squares = self.positions.products / self.positions.count
        covariance = squares - torch.outer(mean, mean)
        varies = (covariance.diagonal() > _SMALLEST_SHARE * squares.diagonal()).double()
        return covariance * torch.outer(varies, varies)

    def _std(self) -> Tensor:
        return self._covariance().diagonal().sqrt()

    def _spatial_correlation(self) -> Tensor:
        """Return Pearson's correlation in each channel, [c], of all pairs of neighbours, each taken in both orders."""
        count = self.num_pairs.clamp_min(1)
        both, squares, products = self.pairs / torch.stack([2 * count, 2 * count, count])[:, None]
        variance = squares - both.square()
        variance = variance.where(variance > _SMALLEST_SHARE * squares, 0)
        return _ratio(products - both.square(), variance)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, and 0 where whole is 0."""
    return torch.where(whole > 0, part / whole.where(whole > 0, 1), 0)
