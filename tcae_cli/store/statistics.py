"""Exact mean, deviation and range of latents in float64: partials that merge, whoever counted which rows.

Axes: k rows, c channels, h w positions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Of each of m places: how many values were seen, their mean, squared deviations from it, and their range."""

    count: int  # values a place
    mean: np.ndarray  # [m...], float64
    m2: np.ndarray  # sum of squared deviations from the mean
    minimum: np.ndarray
    maximum: np.ndarray

    @property
    def std(self) -> np.ndarray:
        """Standard deviation, over the count."""
        deviation: np.ndarray = np.sqrt(self.m2 / self.count)
        return deviation

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both sets of values together (Chan, Golub and LeVeque 1979, equation 2.1)."""
        count = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * (other.count / count),
            self.m2 + other.m2 + delta**2 * (self.count * other.count / count),
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
        )


@dataclass(frozen=True)
class LatentMoments:
    """Moments of each channel, [c], over all positions, and of each position, [h, w], over all channels."""

    num_rows: int
    channel: Moments
    position: Moments

    @classmethod
    def of(cls, latents: np.ndarray) -> "LatentMoments":
        """Of latents [k, c, h, w], k at least 1."""
        values = latents.astype(np.float64)
        return cls(len(values), _moments(values, (0, 2, 3)), _moments(values, (0, 1)))

    def merge(self, other: "LatentMoments | None") -> "LatentMoments":
        """Of both together."""
        if other is None:
            return self
        return LatentMoments(
            self.num_rows + other.num_rows, self.channel.merge(other.channel), self.position.merge(other.position)
        )

    def as_json(self) -> dict[str, Any]:
        """The same, every bit, in types JSON knows."""
        return {
            "num_rows": self.num_rows,
            **{
                name: {key: value if key == "count" else value.tolist() for key, value in vars(moments).items()}
                for name, moments in (("channel", self.channel), ("position", self.position))
            },
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "LatentMoments":
        """What as_json gave."""
        return cls(data["num_rows"], *(_from_json(data[name]) for name in ("channel", "position")))


def _from_json(data: dict[str, Any]) -> Moments:
    arrays = {name: np.array(values, np.float64) for name, values in data.items() if name != "count"}
    return Moments(data["count"], **arrays)


def _moments(values: np.ndarray, axes: tuple[int, ...]) -> Moments:
    mean = values.mean(axes, keepdims=True)
    return Moments(
        count=int(np.prod([values.shape[axis] for axis in axes])),
        mean=mean.squeeze(axes),
        m2=np.square(values - mean).sum(axes),
        minimum=values.min(axes),
        maximum=values.max(axes),
    )
