"""Turns decoded images into model inputs: short side resized, centre crop, and the two ranges of pixels.

Axes: h w pixels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tcae_cli.images.image_file import resize_image
from tcae_cli.recipe.choices import Resize

_LONGEST = 8  # times the short side; of a longer image only the middle is resized
_KEPT = 4  # times the short side; the part of it that is


@dataclass(frozen=True)
class Transform:
    """The crops that are made of each image, one for each size."""

    sizes: tuple[int, ...]  # pixels
    resize: Resize


class View(NamedTuple):
    """The part of one image that the model sees."""

    pixels: Tensor  # [3, size, size], uint8
    original_size: tuple[int, int]  # height, width, upright
    crop: tuple[int, int, int, int]  # left, top, right, bottom of the crop, in pixels of the upright original


def resize_and_crop(image: np.ndarray, size: int, resize: Resize) -> View:
    """Crop the middle square of an image, its short side resized to `size` pixels; image: [h, w, 3], uint8.

    "torch": bicubic, antialiased, on bytes. "adm": the crop of published evaluations, halved by box averages while the
    short side is twice `size` or more, then bicubic by Pillow. Source: guided-diffusion (arXiv:2105.05233).
    """
    height, width = image.shape[:2]
    y_cut, x_cut = _cut(height, width), _cut(width, height)
    middle = image[y_cut : height - y_cut, x_cut : width - x_cut]
    resized = _resize(middle, size, resize)
    top, left = (resized.shape[0] - size) // 2, (resized.shape[1] - size) // 2
    pixels = resized[top : top + size, left : left + size].permute(2, 0, 1).contiguous()
    # From pixels of the resized image back to the original's.
    y_scale, x_scale = middle.shape[0] / resized.shape[0], middle.shape[1] / resized.shape[1]
    crop_top, crop_left = y_cut + round(top * y_scale), x_cut + round(left * x_scale)
    crop = (crop_left, crop_top, crop_left + round(size * x_scale), crop_top + round(size * y_scale))
    return View(pixels, (height, width), crop)


def to_float(images: Tensor) -> Tensor:
    """Return images as the model takes them, float32, in [-1, 1]; images: uint8."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Return images as files hold them, uint8, clamped and rounded half up; images: float, [-1, 1]."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5 + 0.5).floor().to(torch.uint8)


def _cut(side: int, other: int) -> int:
    """Return the pixels to leave out at both ends of a side.

    A strip of 1 x 10,000 pixels would be gigabytes once its short side is resized, for one square of its middle.
    """
    return (side - _KEPT * other) // 2 if side > _LONGEST * other else 0


def _resize(image: np.ndarray, size: int, resize: Resize) -> Tensor:
    """Return an image with its short side resized to `size` pixels, [h, w, 3], uint8; image: [h, w, 3], uint8."""
    if resize == "adm":
        while min(image.shape[:2]) >= 2 * size:
            image = resize_image(image, image.shape[0] // 2, image.shape[1] // 2, "box")
    short_side = min(image.shape[:2])
    height, width = (max(size, round(side * size / short_side)) for side in image.shape[:2])

    if resize == "adm":
        return torch.from_numpy(resize_image(image, height, width, "bicubic"))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]  # channels last in memory: the fast path
    return F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)[0].permute(1, 2, 0)
