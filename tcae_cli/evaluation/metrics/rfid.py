"""rFID: how far the FID Inception's features of reconstructions are from those of the originals."""

from tcae_cli.evaluation.metrics.feature_distance import FeatureDistance
from tcae_cli.evaluation.metrics.figure import Figure
from tcae_cli.evaluation.metrics.metric import PAIRS
from tcae_cli.evaluation.reference import Reference
from tcae_cli.features.published import INCEPTION_SHA256

INCEPTION_WORDS = f"FID Inception of 2015 (sha256 {INCEPTION_SHA256[:8]}), TensorFlow 1's resize to 299 px"


class RFid(FeatureDistance):
    """The FID (arXiv:1706.08500) of reconstructions against their originals, or against the file of --reference."""

    name = "rfid"
    figures = (Figure("rfid", more_is_better=False),)
    needs = (PAIRS,)
    options = ("reference",)
    network = "inception"
    protocol = INCEPTION_WORDS

    def _find_reference(self) -> Reference:
        return self.setting.given_reference(self.network) or super()._find_reference()
