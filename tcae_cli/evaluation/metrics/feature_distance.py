"""Frechet distances: how far apart the features of two sets of images are, each set seen as a Gaussian."""

import math
from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from tcae_cli.evaluation.candidates import Pairs
from tcae_cli.evaluation.metrics.metric import Metric
from tcae_cli.evaluation.reference import Reference
from tcae_cli.evaluation.setting import Setting
from tcae_cli.evaluation.viewer import Seen
from tcae_cli.metrics.frechet import FeatureSums, frechet_distance

_PUBLISHED_ON = 10_000  # images, at least


class FeatureDistance(Metric):
    """The Frechet distance of a network's features of a candidate's images from those of a reference."""

    network: ClassVar[str]  # of NETWORKS

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._reference = self._find_reference()
        self._width = self._reference.network.width
        self._sums = [FeatureSums.zero(self._width) for _ in setting.subject.candidates]

    def _find_reference(self) -> Reference:
        """Return what the candidates are compared with: by default the originals."""
        return self.setting.reference(self.network)

    def add(self, number: int, batch: Pairs) -> None:
        self._sums[number].add(self.setting.features(self.network, batch))

    def tensors(self) -> list[Tensor]:
        return [tensor for sums in self._sums for tensor in sums.tensors()]

    def values(self, number: int) -> dict[str, float]:
        sums = self._sums[number]
        if sums.count < 2:
            return {self.name: math.nan}
        return {self.name: frechet_distance(sums.gaussian(), self._reference.gaussian())}

    def warnings(self, seen: Seen) -> Iterator[str]:
        if seen.num_good < 2:
            yield f"{self.name} is undefined: it needs two images"
        elif seen.num_good < _PUBLISHED_ON:
            fewer = f", fewer than its {self._width:,} features" if seen.num_good < self._width else ""
            yield f"{self.name} is of {seen.num_good:,} images{fewer}: compare it with figures of as many images only"
