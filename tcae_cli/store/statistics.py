"""Computes the mean, deviation and range of latents in float64, as partial results that processes can merge.

Axes: k rows, c channels, h w positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_TOLERANCE = 1e-12  # of the root mean square: statistics of the same latents added in another order agree to this
_SMALLEST_STD = 1e-6  # latents that do not vary, to float32, are divided by this


@dataclass(frozen=True)
class Moments:
    """Count, mean, squared deviations and range of the values at each of m places."""

    count: int  # values a place
    mean: np.ndarray  # [m...], float64
    m2: np.ndarray  # sum of squared deviations from the mean
    minimum: np.ndarray
    maximum: np.ndarray

    @classmethod
    def of(cls, latents: np.ndarray) -> "Moments":
        """Return the moments over rows at each place [c, h, w]; latents are [k, c, h, w], floating, k at least 1."""
        # Row by row the sums stay in the cache; over a whole batch this takes four times as long.
        count, mean = len(latents), np.zeros(latents.shape[1:])
        for row in latents:
            mean += row
        mean /= count
        m2, deviation = np.zeros_like(mean), np.empty_like(mean)
        for row in latents:
            np.subtract(row, mean, out=deviation)
            np.multiply(deviation, deviation, out=deviation)
            m2 += deviation
        return cls(count, mean, m2, latents.min(0).astype(np.float64), latents.max(0).astype(np.float64))

    @property
    def std(self) -> np.ndarray:
        """Return the population standard deviation at each place, [m...], float64."""
        deviation: np.ndarray = np.sqrt(self.m2 / self.count)
        return deviation

    def merge(self, other: "Moments | None") -> "Moments":
        """Return the moments of both sets of values together (Chan, Golub and LeVeque 1979, equation 2.1)."""
        if other is None:
            return self
        count = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * (other.count / count),
            self.m2 + other.m2 + delta**2 * (self.count * other.count / count),
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
        )

    def spread_by(self, std: "Moments") -> "Moments":
        """Return the moments of draws around these values; std: of their standard deviations. The range stays as it is.

        The variance of draws is that of their means plus the mean of their variances.
        """
        return replace(self, m2=self.m2 + std.m2 + std.count * np.square(std.mean))

    def over(self, axes: tuple[int, ...]) -> "Moments":
        """Return the moments of the values along these axes together, for each place of the remaining axes."""
        places = int(np.prod([self.mean.shape[axis] for axis in axes]))
        mean = self.mean.mean(axes, keepdims=True)
        m2 = self.m2.sum(axes) + self.count * np.square(self.mean - mean).sum(axes)
        return Moments(self.count * places, mean.squeeze(axes), m2, self.minimum.min(axes), self.maximum.max(axes))


@dataclass(frozen=True)
class LatentMoments:
    """Moments of each channel, [c], over all positions, and of each position, [h, w], over all channels."""

    num_rows: int
    channel: Moments
    position: Moments | None  # None: of latents of several shapes

    @classmethod
    def of(cls, places: Moments) -> "LatentMoments":
        """Return the moments of latents from those at each place [c, h, w]."""
        return cls(places.count, places.over((1, 2)), places.over((0,)))

    def merge(self, other: "LatentMoments") -> "LatentMoments":
        """Return the moments of both sets of rows together; their latents may have different shapes."""
        position = None
        if self.position and other.position and self.position.mean.shape == other.position.mean.shape:
            position = self.position.merge(other.position)
        return LatentMoments(self.num_rows + other.num_rows, self.channel.merge(other.channel), position)

    def spread_by(self, std: "LatentMoments") -> "LatentMoments":
        """Return the moments of latents drawn around these means; std: of their standard deviations."""
        position = self.position.spread_by(std.position) if self.position and std.position else None
        return LatentMoments(self.num_rows, self.channel.spread_by(std.channel), position)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that a store keeps, float64: `channel_mean` [c], `position_mean` [h, w] and so on."""
        return {
            f"{name}_{suffix}": np.asarray(values, np.float64)
            for name, part in self._parts()
            for suffix, values in (("mean", part.mean), ("std", part.std), ("min", part.minimum), ("max", part.maximum))
        }

    def summary(self) -> dict[str, Any]:
        """Return the statistics that the root's attributes show: overall, and of each channel."""
        overall = self.channel.over((0,))
        return {
            "num_rows": self.num_rows,
            "mean": float(overall.mean),
            "std": float(overall.std),
            "channel_mean": self.channel.mean.tolist(),
            "channel_std": self.channel.std.tolist(),
        }

    def tolerance(self) -> float:
        """Return how far statistics of the same latents, added in another order, may differ from these."""
        overall = self.channel.over((0,))
        return _TOLERANCE * float(np.hypot(overall.mean, overall.std))

    def differing(self, arrays: Mapping[str, np.ndarray]) -> list[str]:
        """Return the names of `self.arrays()` that other arrays lack or hold with values beyond the tolerance."""
        tolerance = self.tolerance()
        return [
            name
            for name, values in self.arrays().items()
            if name not in arrays
            or arrays[name].shape != values.shape
            or not (np.abs(arrays[name] - values) <= tolerance).all()  # so that a NaN differs
        ]

    def as_json(self) -> dict[str, Any]:
        """Return all moments as JSON values, from which from_json restores every bit."""
        return {
            "num_rows": self.num_rows,
            **{
                name: {key: value if key == "count" else value.tolist() for key, value in vars(moments).items()}
                for name, moments in self._parts()
            },
        }

    def _parts(self) -> list[tuple[str, Moments]]:
        return [("channel", self.channel), *([("position", self.position)] if self.position else [])]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "LatentMoments":
        """Return the moments of a result of as_json. Raises KeyError, TypeError or ValueError if it is damaged."""
        parts = []
        for name in ("channel", "position"):
            arrays = {key: np.array(values, np.float64) for key, values in data[name].items() if key != "count"}
            parts.append(Moments(data[name]["count"], **arrays))
        return cls(data["num_rows"], *parts)


def normalisation(mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the deviation as float32, in their shapes; the deviation is raised to at least 1e-6."""
    return mean.astype(np.float32), np.maximum(std, _SMALLEST_STD).astype(np.float32)


def summary_normalisation(summary: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and standard deviation of each channel, [c, 1, 1] each, float32, by a view's summary."""
    mean, std = (np.array(summary[f"channel_{name}"])[:, None, None] for name in ("mean", "std"))
    return normalisation(mean, std)
