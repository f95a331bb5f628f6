"""DiffAug: random shifts and colours of a discriminator's input, through which gradients reach the images.

Axes: b images, h w pixels. Source: DiffAug (arXiv:2006.10738) at RAE's strengths (arXiv:2510.11690), without cutout.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST_SHIFT = 0.125  # share of a side
# Shifts down and right (shares of the largest shift), added brightness, factors of saturation and contrast.
_LOW, _HIGH = np.array([(-1, 1), (-1, 1), (-0.5, 0.5), (0, 2), (0.5, 1.5)]).T
_NOTHING = np.array([0, 0, 0, 1, 1])


def draw_diffaug(seed: int, samples: Sequence[int], stream: str, probability: float) -> Tensor:
    """Draw how each image is changed, [b, 5] float32: two shifts, brightness, saturation, contrast.

    The draws depend on the seed, the name of the stream and the sample's number alone, and so neither on the number of
    ranks nor on micro-batches. probability: the chance that an image is changed at all.
    """
    name = int.from_bytes(stream.encode())
    draws = np.stack([np.random.default_rng((seed, name, sample)).random(1 + len(_LOW)) for sample in samples])
    drawn = _LOW + draws[:, 1:] * (_HIGH - _LOW)
    return torch.from_numpy(np.where(draws[:, :1] < probability, drawn, _NOTHING).astype(np.float32))


def diffaug(images: Tensor, parameters: Tensor) -> Tensor:
    """Return images [b, 3, h, w] changed as drawn: colours first, then shifts, which move in 0, mid grey.

    images: [b, 3, h, w], float, in [-1, 1]; the result may exceed that range.
    """
    shifts, colours = parameters[:, :2], parameters[:, 2:, None, None, None]
    brightness, saturation, contrast = colours.unbind(1)
    images = images + brightness
    # Interpolation from the mean leaves an image exactly as it is where the factor is 1.
    images = torch.lerp(images.mean(dim=1, keepdim=True), images, saturation)
    images = torch.lerp(images.mean(dim=(1, 2, 3), keepdim=True), images, contrast)
    for axis, shift in zip((2, 3), shifts.unbind(1), strict=True):
        images = _shifted(images, shift, axis)
    return images


def _shifted(images: Tensor, shift: Tensor, axis: int) -> Tensor:
    """Move each image along an axis by a whole number of pixels; shift: [b], in [-1, 1) of the largest shift."""
    side = images.shape[axis]
    largest = round(side * _LARGEST_SHIFT)
    # All whole numbers from -largest to largest are equally likely.
    pixels = (shift * (largest + 0.5) + 0.5).floor().long()
    margins = (0, 0, largest, largest) if axis == 2 else (largest, largest)
    sources = torch.arange(side, device=images.device) + largest - pixels[:, None]  # [b, side]
    sources = sources[:, None, :, None] if axis == 2 else sources[:, None, None, :]
    return F.pad(images, margins).gather(axis, sources.expand(images.shape))
