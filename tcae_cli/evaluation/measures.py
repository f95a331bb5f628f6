"""Figures that grow batch by batch, and add over ranks: each image is counted once, whoever saw it.

Axes: b images, d width of features, n images that are evaluated.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from tcae_cli.evaluation.candidates import Pairs
from tcae_cli.evaluation.metrics.probe import ProbeFeatures
from tcae_cli.images.transform import to_float
from tcae_cli.metrics.frechet import FeatureSums, Gaussian, frechet_distance
from tcae_cli.metrics.inception_score import InceptionScoreSums
from tcae_cli.metrics.latent import LatentSums


class Measure(Protocol):
    """Something that is measured of a candidate."""

    def add(self, pairs: Pairs) -> None:
        """Count images in."""

    def tensors(self) -> list[Tensor]:
        """What has to be added over ranks, in place, before figures are asked for."""

    def figures(self) -> dict[str, float]:
        """By name."""


class PerImage:
    """The mean over images of a distance between an image and its reconstruction."""

    def __init__(self, name: str, distance: Callable[[Tensor, Tensor], Tensor], num_images: int) -> None:
        """distance: originals and decoded, [b, 3, h, w] uint8, to [b]."""
        self.name, self._distance = name, distance
        # One place an image: added over ranks they are the same numbers in the same order.
        self.values = torch.zeros(num_images, dtype=torch.float64)
        self.seen = torch.zeros(num_images, dtype=torch.int64)

    def add(self, pairs: Pairs) -> None:
        self.values[pairs.positions] = self._distance(pairs.originals, pairs.decoded).double().cpu()
        self.seen[pairs.positions] = 1

    def tensors(self) -> list[Tensor]:
        return [self.values, self.seen]

    def figures(self) -> dict[str, float]:
        return {self.name: float(self.values[self.seen == 1].mean())}


class FeatureNetwork(Protocol):
    """A frozen network: uint8 images [b, 3, h, w] to features [b, width], float32."""

    width: int

    def __call__(self, images: Tensor) -> Tensor: ...
    def state_dict(self) -> dict[str, Tensor]: ...


class Reference:
    """What a network makes of the originals."""

    def __init__(self, network: FeatureNetwork, known: Gaussian | None = None) -> None:
        """known: taken from elsewhere; nothing is added."""
        self.network, self.known = network, known
        self.sums = FeatureSums.zero(network.width)

    def add(self, originals: Tensor) -> None:
        """Count images in; uint8, [b, 3, h, w]."""
        if self.known is None:
            self.sums.add(self.network(originals))

    def gaussian(self) -> Gaussian:
        """Of all originals, once the sums are those of all ranks."""
        return self.known or self.sums.gaussian()


class FeatureDistance:
    """The Frechet distance of features from a reference's."""

    def __init__(self, name: str, reference: Reference) -> None:
        self._name, self._reference = name, reference
        self.sums = FeatureSums.zero(reference.network.width)

    def add_features(self, _positions: Tensor, features: Tensor) -> None:
        self.sums.add(features)

    def tensors(self) -> list[Tensor]:
        return self.sums.tensors()

    def figures(self) -> dict[str, float]:
        if self.sums.count < 2:
            return {self._name: math.nan}
        return {self._name: frechet_distance(self.sums.gaussian(), self._reference.gaussian())}


class InceptionScore:
    """How sure a classifier is of each image, and how different the images are to it."""

    def __init__(self, logits: Callable[[Tensor], Tensor], num_images: int) -> None:
        """logits: features [b, d] to [b, classes]."""
        self._logits, self._sums = logits, InceptionScoreSums(num_images)

    def add_features(self, positions: Tensor, features: Tensor) -> None:
        self._sums.add(positions, self._logits(features))

    def tensors(self) -> list[Tensor]:
        return self._sums.tensors()

    def figures(self) -> dict[str, float]:
        return {"is": self._sums.score()}


class OfFeatures:
    """Measures on a network's features of the reconstructions, which are computed once."""

    def __init__(self, network: FeatureNetwork) -> None:
        self.network = network
        self.measures: list[FeatureDistance | InceptionScore] = []

    def add(self, pairs: Pairs) -> None:
        features = self.network(pairs.decoded)
        for measure in self.measures:
            measure.add_features(pairs.positions, features)

    def tensors(self) -> list[Tensor]:
        return [tensor for measure in self.measures for tensor in measure.tensors()]

    def figures(self) -> dict[str, float]:
        return {name: value for measure in self.measures for name, value in measure.figures().items()}


class OfLatents:
    """What the latents are like."""

    def __init__(self, num_channels: int) -> None:
        self.metrics: set[str] = set()  # "effective-rank", "channels" or both
        self._sums = LatentSums.zero(num_channels)

    def add(self, pairs: Pairs) -> None:
        assert pairs.encoded is not None
        self._sums.add(pairs.encoded.latents)

    def tensors(self) -> list[Tensor]:
        return self._sums.tensors()

    def figures(self) -> dict[str, float]:
        rank = {"effective-rank": self._sums.effective_rank()} if "effective-rank" in self.metrics else {}
        return rank | (self._sums.figures() if "channels" in self.metrics else {})

    def curves(self) -> dict[str, list[float]]:
        """Of each channel."""
        return self._sums.curves()


class OfProbes:
    """What linear probes are to be trained and measured on; they are when all images have been seen."""

    def __init__(self, features: ProbeFeatures) -> None:
        self.features = features

    def add(self, pairs: Pairs) -> None:
        assert pairs.encoded is not None
        self.features.add(pairs.positions, pairs.encoded.latents, pairs.encoded.tokens)

    def tensors(self) -> list[Tensor]:
        return self.features.tensors()

    def figures(self) -> dict[str, float]:
        return {}


def of_floats(metric: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A metric on images in [0, 1], taking uint8."""
    return lambda originals, decoded: metric(originals / 255, decoded / 255)


def of_model_range(distance: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A distance on images in [-1, 1], taking uint8."""
    return lambda originals, decoded: distance(to_float(decoded), to_float(originals))
