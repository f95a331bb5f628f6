"""LPIPS, with VGG16 and with AlexNet: how far reconstructions are from the originals to a perceptual network."""

from functools import partial

from torch import Tensor

from tcae_cli.evaluation.metrics.figure import Figure
from tcae_cli.evaluation.metrics.per_image import PerImage
from tcae_cli.evaluation.setting import Setting
from tcae_cli.features.backbone import load_feature_network
from tcae_cli.images.transform import to_float
from tcae_cli.losses.perceptual import PerceptualDistance

load_vgg = partial(load_feature_network, "lpips-vgg", instead="omit that metric")
load_alex = partial(load_feature_network, "lpips-alex", instead="omit that metric")


class Lpips(PerImage):
    """The mean over images of LPIPS 0.1 (arXiv:1801.03924), in the features of its network."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        assert self.network is not None
        self._distance = PerceptualDistance(setting.network(self.network))

    def measure(self, originals: Tensor, decoded: Tensor) -> Tensor:
        distance: Tensor = self._distance(to_float(decoded), to_float(originals))
        return distance


class LpipsVgg(Lpips):
    """LPIPS with VGG16."""

    name = "lpips-vgg"
    network = "lpips-vgg"
    figures = (Figure("lpips-vgg", more_is_better=False, format="{:.4f}".format),)
    protocol = "LPIPS 0.1 with VGG16, mean over images"


class LpipsAlex(Lpips):
    """LPIPS with AlexNet."""

    name = "lpips-alex"
    network = "lpips-alex"
    figures = (Figure("lpips-alex", more_is_better=False, format="{:.4f}".format),)
    protocol = "LPIPS 0.1 with AlexNet, mean over images"
