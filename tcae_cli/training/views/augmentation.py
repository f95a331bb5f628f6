"""Draws views of an image: the clean view of reconstruction, and augmented crops as iBOT's (arXiv:2111.07832).

Colours are float32 in [0, 255] until the last step, and rounded once. Axes: h w pixels.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tcae_cli.recipe.schema import DataSpec

_LONGEST = 8  # times the short side; a longer image is cut to its middle before its clean view is drawn
_BOX_ATTEMPTS = 10
LARGEST_ASPECT = 4 / 3  # of a crop's box
_FLIP_SHARE = 0.5  # of crops, as are all shares below
JITTER_SHARE, GREY_SHARE = 0.8, 0.2
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.2, 0.1
BLUR_RADIUS = (0.1, 2.0)  # pixels
_KERNEL_RADII = 3  # at which the blur's kernel ends, on each side
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


@dataclass(frozen=True)
class Distortion:
    """The shares of a kind of crop that are blurred and solarised; everything else is the same for all kinds."""

    blur: float
    solarise: float


FIRST_GLOBAL = Distortion(blur=1.0, solarise=0.0)
SECOND_GLOBAL = Distortion(blur=0.1, solarise=0.2)
LOCAL = Distortion(blur=0.5, solarise=0.0)


def clean_view(image: np.ndarray, spec: DataSpec, size: int, random: np.random.Generator) -> Tensor:
    """Return a view [3, size, size], uint8, of an image [h, w, 3]: short side resized, random crop, random flip."""
    # Only the middle of a strip: one of 1 x 10,000 pixels would take gigabytes once its short side is resized.
    longest = _LONGEST * min(image.shape[:2])
    y, x = (max(0, side - longest) // 2 for side in image.shape[:2])
    image = image[y : image.shape[0] - y, x : image.shape[1] - x]

    short_side = int(random.integers(max(size, spec.resize_min), max(size, spec.resize_max), endpoint=True))
    height, width = (max(short_side, round(side * short_side / min(image.shape[:2]))) for side in image.shape[:2])
    resized = resize(image, height, width)
    top, left = random.integers(height - size, endpoint=True), random.integers(width - size, endpoint=True)
    view = resized[:, top : top + size, left : left + size]
    return view.flip(-1) if random.random() < spec.flip else view.contiguous()


def random_resized_crop(
    image: np.ndarray, size: int, scale: tuple[float, float], random: np.random.Generator
) -> Tensor:
    """Return a random box of an image [h, w, 3], resized and perhaps flipped: [3, size, size]; see draw_box."""
    top, left, height, width = draw_box(image.shape[0], image.shape[1], scale, random)
    crop = resize(image[top : top + height, left : left + width], size, size)
    return crop.flip(-1) if random.random() < _FLIP_SHARE else crop


def draw_box(
    height: int, width: int, scale: tuple[float, float], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a box: its area is a share within `scale`, its aspect is 3:4 to 4:3.

    If ten draws do not fit into the image, the box is the largest one in its middle whose aspect is within that range.
    """
    for _ in range(_BOX_ATTEMPTS):
        area = height * width * random.uniform(*scale)
        aspect = LARGEST_ASPECT ** random.uniform(-1, 1)
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            top, left = random.integers(height - h, endpoint=True), random.integers(width - w, endpoint=True)
            return int(top), int(left), h, w
    h = min(height, max(1, round(width * LARGEST_ASPECT)))
    w = min(width, max(1, round(height * LARGEST_ASPECT)))
    return (height - h) // 2, (width - w) // 2, h, w


def resize(image: np.ndarray, height: int, width: int) -> Tensor:
    """Resize an image [h, w, 3] to [3, height, width], uint8; bicubic, antialiased."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]  # channels last in memory, which is the fast path
    return F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)[0]


def distort(crop: Tensor, distortion: Distortion, random: np.random.Generator) -> Tensor:
    """Return a crop with random colours, perhaps grey, blurred or solarised; crop and result are [3, h, w], uint8."""
    pixels = torch.empty(crop.shape).copy_(crop)  # channel planes, whatever the crop's layout in memory
    if random.random() < JITTER_SHARE:
        changes = [
            partial(scale_brightness, factor=random.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS)),
            partial(scale_contrast, factor=random.uniform(1 - CONTRAST, 1 + CONTRAST)),
            partial(scale_saturation, factor=random.uniform(1 - SATURATION, 1 + SATURATION)),
            partial(shift_hue, turn=random.uniform(-HUE, HUE)),
        ]
        for number in random.permutation(len(changes)):
            pixels = changes[number](pixels)
    if random.random() < GREY_SHARE:
        pixels = to_grey(pixels)
    if random.random() < distortion.blur:
        pixels = blur(pixels, random.uniform(*BLUR_RADIUS))
    rounded = (pixels + 0.5).to(torch.int32).to(torch.uint8)  # three times as fast as casting directly
    if random.random() < distortion.solarise:
        rounded = solarise(rounded)
    return rounded.expand(3, -1, -1)


def scale_brightness(pixels: Tensor, factor: float) -> Tensor:
    """Multiply pixels by `factor`; pixels here and below are [3, h, w], float32, in [0, 255]."""
    return (pixels * factor).clamp_(0, 255)


def scale_contrast(pixels: Tensor, factor: float) -> Tensor:
    """Multiply distances from the image's mean grey by `factor`."""
    mean = to_grey(pixels).mean(dtype=torch.float64)  # in float32 the result would depend on the number of threads
    return torch.lerp(mean.float(), pixels, factor).clamp_(0, 255)


def scale_saturation(pixels: Tensor, factor: float) -> Tensor:
    """Multiply distances from each pixel's own grey by `factor`."""
    return torch.lerp(to_grey(pixels), pixels, factor).clamp_(0, 255)


def shift_hue(pixels: Tensor, turn: float) -> Tensor:
    """Rotate hues by a share `turn` of the circle; value and saturation of HSV stay."""
    red, green, blue = pixels
    value = pixels.amax(0)
    chroma = value - pixels.amin(0)
    per_chroma = chroma.clamp(min=1e-6).reciprocal_()  # a grey pixel has no hue, so any is right
    hue = torch.where(
        value == red,
        (green - blue) * per_chroma,
        torch.where(value == green, (blue - red) * per_chroma + 2, (red - green) * per_chroma + 4),
    )
    # Back to RGB without branches: a channel lies below the value by a trapezoid of its distance in hue, in sixths.
    distance = hue + torch.tensor([5.0, 3.0, 1.0]).add_(6 * turn)[:, None, None]
    distance.sub_((distance / 6).floor_(), alpha=6)
    fall = distance.sub_(2).abs_().neg_().add_(2).clamp_(0, 1)
    return torch.addcmul(value, chroma, fall, value=-1)


def to_grey(pixels: Tensor) -> Tensor:
    """Return luma, [1, h, w]."""
    red, green, blue = LUMA
    return (pixels[:1] * red).add_(pixels[1:2], alpha=green).add_(pixels[2:], alpha=blue)


def blur(pixels: Tensor, radius: float) -> Tensor:
    """Convolve with a Gaussian of standard deviation `radius`, in pixels; edge pixels are repeated beyond the edge."""
    reach = math.ceil(_KERNEL_RADII * radius)
    gaussian = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2)
    weights = (gaussian / gaussian.sum()).tolist()
    blurred = F.pad(pixels[None], (reach,) * 4, mode="replicate")[0]
    for axis in (1, 2):
        # Sums of shifted images are several times as fast as conv2d, which is optimised for many channels.
        length = blurred.shape[axis] - 2 * reach
        total = blurred.narrow(axis, 0, length) * weights[0]
        for start, weight in enumerate(weights[1:], 1):
            total.add_(blurred.narrow(axis, start, length), alpha=weight)
        blurred = total
    return blurred


def solarise(pixels: Tensor) -> Tensor:
    """Invert the bytes of 128 and more; uint8."""
    return torch.minimum(pixels, 255 - pixels)  # equal, because exactly those bytes exceed their inverse
