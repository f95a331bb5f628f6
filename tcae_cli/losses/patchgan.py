"""PatchGAN: a discriminator that is trained as a whole, for those without pretrained weights.

Axes: b images, h w pixels, k logits.
"""

from typing import Self

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from tcae_cli.losses.discriminator import Discriminator, LoadFeatures

_SLOPE = 0.2  # of LeakyReLU below 0


class PatchGan(Discriminator):
    """Convolutions that judge patches of 70 x 70 pixels (arXiv:1611.07004), with spectral norm (arXiv:1802.05957).

    Instance norm replaces the usual batch norm.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, 64, stride=2), nn.LeakyReLU(_SLOPE)]
        for width, stride in ((64, 2), (128, 2), (256, 1)):
            norm = nn.InstanceNorm2d(2 * width, affine=True)
            layers += [_convolution(width, 2 * width, stride), norm, nn.LeakyReLU(_SLOPE)]
        self.layers = nn.Sequential(*layers, _convolution(512, 1, stride=1))

    @classmethod
    def build(cls, name: str, load_features: LoadFeatures) -> Self:
        return cls()

    def forward(self, images: Tensor) -> Tensor:
        """Return each patch's logit, [b, k], of images [b, 3, h, w], float32 in [-1, 1], at least 24 pixels a side."""
        logits: Tensor = self.layers(images)
        return logits.flatten(1)


def _convolution(width_in: int, width_out: int, stride: int) -> nn.Module:
    return spectral_norm(nn.Conv2d(width_in, width_out, 4, stride, padding=1))


DISCRIMINATOR = PatchGan
