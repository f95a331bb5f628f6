"""PSNR: how far the pixels of reconstructions are from the originals', in dB."""

from collections.abc import Iterator

from torch import Tensor

from tcae_cli.evaluation.metrics.figure import Figure
from tcae_cli.evaluation.metrics.per_image import PerImage
from tcae_cli.evaluation.viewer import Seen
from tcae_cli.metrics.image import mean_without_infinite, psnr


class Psnr(PerImage):
    """The mean of the peak signal-to-noise ratio of 8-bit pixels, over images that differ from their originals."""

    name = "psnr"
    figures = (Figure("psnr", unit="dB", more_is_better=True, format="{:.2f} dB".format),)
    protocol = "mean over images that differ from their originals; it is infinite where they are identical"

    def measure(self, originals: Tensor, decoded: Tensor) -> Tensor:
        return psnr(originals / 255, decoded / 255)

    def values(self, number: int) -> dict[str, float]:
        return {self.name: mean_without_infinite(self.values_seen(number))}

    def warnings(self, seen: Seen) -> Iterator[str]:
        for number, candidate in enumerate(self.setting.subject.candidates):
            found = self.values_seen(number)
            if num_identical := int(found.isinf().sum()):
                rest = f"the mean is over the other {len(found) - num_identical:,}"
                if num_identical == len(found):
                    rest = "psnr is infinite"
                yield f"psnr: {num_identical:,} of {len(found):,} pairs of {candidate.name} are identical; {rest}"
