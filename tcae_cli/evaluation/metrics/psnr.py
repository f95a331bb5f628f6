"""PSNR: how far the pixels of reconstructions are from the originals', in dB."""

from torch import Tensor

from tcae_cli.evaluation.metrics.figure import Figure
from tcae_cli.evaluation.metrics.per_image import PerImage
from tcae_cli.metrics.image import psnr


class Psnr(PerImage):
    """The mean over images of the peak signal-to-noise ratio of 8-bit pixels."""

    name = "psnr"
    figures = (Figure("psnr", unit="dB", more_is_better=True, format="{:.2f} dB".format),)
    protocol = "mean over images"

    def measure(self, originals: Tensor, decoded: Tensor) -> Tensor:
        return psnr(originals / 255, decoded / 255)
