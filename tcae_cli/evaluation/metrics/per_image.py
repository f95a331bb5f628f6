"""Metrics that are the mean over images of a figure of each image and its reconstruction.

Axes: b images of a batch, n images that are evaluated, m candidates.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from tcae_cli.evaluation.candidates import Pairs
from tcae_cli.evaluation.metrics.metric import PAIRS, Metric
from tcae_cli.evaluation.setting import Setting


class PerImage(Metric):
    """A metric whose only figure, of the metric's name, is the mean over images."""

    needs = (PAIRS,)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        # One place an image: added over ranks they are the same numbers in the same order.
        self._values = torch.zeros(len(setting.subject.candidates), setting.num_images, dtype=torch.float64)  # [m, n]
        self._seen = torch.zeros(self._values.shape, dtype=torch.int64)

    @abstractmethod
    def measure(self, originals: Tensor, decoded: Tensor) -> Tensor:
        """Return the figure of each image, [b]; originals, decoded: [b, 3, h, w], uint8."""

    def add(self, number: int, batch: Pairs) -> None:
        self._values[number, batch.positions] = self.measure(batch.originals, batch.decoded).double().cpu()
        self._seen[number, batch.positions] = 1

    def tensors(self) -> list[Tensor]:
        return [self._values, self._seen]

    def values(self, number: int) -> dict[str, float]:
        return {self.name: float(self.values_seen(number).mean())}

    def values_seen(self, number: int) -> Tensor:
        """Return the figures of a candidate's images that were seen, [k], float64."""
        return self._values[number][self._seen[number] == 1]

    def image_values(self, number: int) -> Tensor:
        return self._values[number]
