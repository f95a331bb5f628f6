"""Turns decoded images into model inputs: short side resized, centre crop, and the two ranges of pixels.

Axes: h w pixels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tcae_cli.images.image_file import OVERSAMPLING, resize_image
from tcae_cli.recipe.choices import Decode, Resize
from tcae_cli.store.spec import StoreSpec

_LONGEST = 8  # times the short side; of a longer image only the middle is resized
_KEPT = 4  # times the short side; the part of it that is


@dataclass(frozen=True)
class Transform:
    """The crops that are made of each image, one for each size."""

    sizes: tuple[int, ...]  # pixels
    resize: Resize
    decode: Decode = "full"

    @classmethod
    def of_store(cls, spec: StoreSpec) -> "Transform":
        """Return the transform that all images of a store go through."""
        return cls(tuple(spec.sizes), spec.transform.resize, spec.transform.decode)

    def least_side(self, height: int, width: int) -> int:
        """Return the least short side, in pixels, to decode an image of this size at."""
        return OVERSAMPLING * max(self.sizes) if self.decode == "draft" else min(height, width)


class View(NamedTuple):
    """The part of one image that the model sees."""

    pixels: Tensor  # [3, size, size], uint8
    original_size: tuple[int, int]  # height, width, upright
    crop: tuple[int, int, int, int]  # left, top, right, bottom of the crop, in pixels of the upright original


def resize_and_crop(image: np.ndarray, size: int, resize: Resize, original_size: tuple[int, int] | None = None) -> View:
    """Crop the middle square of an image, its short side resized to `size` pixels; image: [h, w, 3], uint8.

    original_size: height and width of the upright original, where the image was decoded at a smaller scale ("torch").

    "torch": bicubic, antialiased, on bytes. "adm": the crop of published evaluations, halved by box averages while the
    short side is twice `size` or more, then bicubic by Pillow. Source: guided-diffusion (arXiv:2105.05233).
    """
    height, width = original_size or image.shape[:2]
    y_cut, x_cut = _cut(height, width), _cut(width, height)
    cut_height, cut_width = height - 2 * y_cut, width - 2 * x_cut
    y_step, x_step = image.shape[0] / height, image.shape[1] / width  # 1 where the image was decoded in full
    middle = image[
        round(y_cut * y_step) : round((y_cut + cut_height) * y_step),
        round(x_cut * x_step) : round((x_cut + cut_width) * x_step),
    ]
    resized = _resize(middle, (cut_height, cut_width), size, resize)
    top, left = (resized.shape[0] - size) // 2, (resized.shape[1] - size) // 2
    pixels = resized[top : top + size, left : left + size].permute(2, 0, 1).contiguous()
    # From pixels of the resized image back to the original's.
    y_scale, x_scale = cut_height / resized.shape[0], cut_width / resized.shape[1]
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


def _resize(image: np.ndarray, original_size: tuple[int, int], size: int, resize: Resize) -> Tensor:
    """Return an image with its short side resized to `size` pixels, [h, w, 3], uint8; image: [h, w, 3], uint8.

    original_size: the height and width that the image has in its file.
    """
    if resize == "adm":
        while min(image.shape[:2]) >= 2 * size:
            image = resize_image(image, image.shape[0] // 2, image.shape[1] // 2, "box")
        original_size = image.shape[:2]
    short_side = min(original_size)
    height, width = (max(size, round(side * size / short_side)) for side in original_size)

    if resize == "adm":
        return torch.from_numpy(resize_image(image, height, width, "bicubic"))
    # Channels last in memory, and seen to be: permute(2, 0, 1)[None] has strides that take the slow path.
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    return F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)[0].permute(1, 2, 0)
