"""The Inception Score: how sure a classifier is of each image, and how different the images are to it."""

from torch import Tensor

from tcae_cli.evaluation.candidates import Pairs
from tcae_cli.evaluation.metrics.figure import Figure
from tcae_cli.evaluation.metrics.metric import IMAGES, Metric
from tcae_cli.evaluation.metrics.rfid import INCEPTION_WORDS
from tcae_cli.evaluation.setting import Setting
from tcae_cli.features.inception import NAME
from tcae_cli.metrics.inception_score import InceptionScoreSums


class InceptionScore(Metric):
    """The Inception Score (arXiv:1606.03498) of reconstructions or of generated images."""

    name = "is"
    figures = (Figure("is", more_is_better=True),)
    needs = (IMAGES,)
    network = NAME
    protocol = f"{INCEPTION_WORDS}; mean of torch-fidelity's 10 splits"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._inception = setting.network(NAME)
        self._sums = [InceptionScoreSums(setting.num_images) for _ in setting.subject.candidates]

    def add(self, number: int, batch: Pairs) -> None:
        logits = self._inception.logits(self.setting.features(NAME, batch))
        self._sums[number].add(batch.positions, logits)

    def tensors(self) -> list[Tensor]:
        return [tensor for sums in self._sums for tensor in sums.tensors()]

    def values(self, number: int) -> dict[str, float]:
        return {"is": self._sums[number].score()}
