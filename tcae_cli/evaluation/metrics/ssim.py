"""SSIM: how alike the structure of reconstructions and originals is."""

from torch import Tensor

from tcae_cli.evaluation.metrics.figure import Figure
from tcae_cli.evaluation.metrics.per_image import PerImage
from tcae_cli.metrics.image import ssim


class Ssim(PerImage):
    """The mean over images of the structural similarity of 8-bit pixels."""

    name = "ssim"
    figures = (Figure("ssim", more_is_better=True, format="{:.4f}".format),)
    protocol = "11-px Gaussian, valid region, mean over images"

    def measure(self, originals: Tensor, decoded: Tensor) -> Tensor:
        return ssim(originals / 255, decoded / 255)
