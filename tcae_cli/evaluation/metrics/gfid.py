"""gFID: how far the FID Inception's features of generated images are from those of real ones."""

from tcae_cli.errors import UsageError
from tcae_cli.evaluation.metrics.feature_distance import FeatureDistance
from tcae_cli.evaluation.metrics.figure import Figure
from tcae_cli.evaluation.metrics.metric import GENERATED
from tcae_cli.evaluation.metrics.rfid import INCEPTION_WORDS
from tcae_cli.evaluation.reference import Reference, show_to_references
from tcae_cli.evaluation.viewer import Seen, Viewer


class GFid(FeatureDistance):
    """The FID (arXiv:1706.08500) of generated images against the real ones of --data, or the file of --reference."""

    name = "gfid"
    figures = (Figure("gfid", more_is_better=False),)
    needs = (GENERATED,)
    options = ("reference",)
    network = "inception"
    protocol = INCEPTION_WORDS

    def _find_reference(self) -> Reference:
        if (given := self.setting.given_reference(self.network)) is not None:
            return given
        if self.setting.subject.real is None:
            raise UsageError("gfid needs real images or statistics of them; give --data or --reference")
        return Reference(self.setting.network(self.network))

    def protocol_here(self) -> str:
        return f"{self.protocol}; against {self.setting.request.reference or self.setting.request.data}"

    def after_images(self, viewer: Viewer, seen: Seen) -> None:
        """Show the real images to the network, unless their statistics are known."""
        real = self.setting.subject.real
        if real is not None and self._reference.known is None:
            show_to_references(viewer, real, [self._reference], lambda _positions, _images: None)
