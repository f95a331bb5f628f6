"""SSIM: how alike the structure of reconstructions and originals is."""

from torch import Tensor

from tcae_cli.evaluation.metrics.figure import Figure
from tcae_cli.evaluation.metrics.per_image import PerImage
from tcae_cli.evaluation.subject import Subject
from tcae_cli.metrics.image import SSIM_LEAST_SIDE, ssim


class Ssim(PerImage):
    """The mean over images of the structural similarity of 8-bit pixels."""

    name = "ssim"
    figures = (Figure("ssim", more_is_better=True, format="{:.4f}".format),)
    protocol = "11-px Gaussian, valid region, mean over images"

    @classmethod
    def refusal(cls, subject: Subject) -> str | None:
        unmet = super().refusal(subject)
        if unmet is None and subject.size < SSIM_LEAST_SIDE:
            least = f"images of at least {SSIM_LEAST_SIDE} px, its window"
            return f"ssim needs {least}, and these have {subject.size}; omit it"
        return unmet

    def measure(self, originals: Tensor, decoded: Tensor) -> Tensor:
        return ssim(originals / 255, decoded / 255)
