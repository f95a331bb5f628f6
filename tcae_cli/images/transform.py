"""Turns decoded images into model inputs: resized to cover a shape, centre crop, and the two ranges of pixels.

Axes: h w pixels.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tcae_cli.images.image_file import OVERSAMPLING, resize_image
from tcae_cli.recipe.choices import Decode, Resize
from tcae_cli.store.spec import StoreSpec

_LONGEST = 8  # times what the crop shows of a side; of a longer side only the middle is resized
_KEPT = 4  # times what the crop shows of it; the length of that middle


@dataclass(frozen=True)
class Transform:
    """The crops that are made of each image, one for each shape."""

    shapes: tuple[tuple[int, int], ...]  # height and width in pixels
    resize: Resize
    decode: Decode = "full"
    min_size: int | None = None  # of images with a shorter side, in pixels, none are made
    buckets: tuple[tuple[int, int], ...] = ()  # all shapes of a store of buckets, whose images are of the one here

    @classmethod
    def of_store(cls, spec: StoreSpec) -> "Transform":
        """Return the transform that all images of a store go through."""
        how = spec.transform
        return cls(tuple(spec.shapes), how.resize, how.decode, how.min_size)

    @classmethod
    def square(cls, size: int, resize: Resize, decode: Decode = "full") -> "Transform":
        """Return the transform to one square of `size` pixels."""
        return cls(((size, size),), resize, decode)

    def least_side(self, height: int, width: int) -> int:
        """Return the least short side, in pixels, to decode an image at that is this high and wide when upright."""
        short_side = min(height, width)
        if self.decode == "full":
            return short_side
        # Each side of a crop, at the scale at which the image's own side has OVERSAMPLING times its pixels.
        sides = [pair for shape in self.shapes for pair in zip(shape, (height, width), strict=True)]
        return max(math.ceil(OVERSAMPLING * crop_side * short_side / side) for crop_side, side in sides)


class View(NamedTuple):
    """The part of one image that the model sees."""

    pixels: Tensor  # [3, h, w], uint8
    original_size: tuple[int, int]  # height, width, upright
    crop: tuple[int, int, int, int]  # left, top, right, bottom of the crop, in pixels of the upright original


def resize_and_crop(
    image: np.ndarray, shape: tuple[int, int], resize: Resize, original_size: tuple[int, int] | None = None
) -> View:
    """Crop the middle of an image that is resized so that it just covers `shape`; image: [h, w, 3], uint8.

    shape: height and width of the crop, in pixels.
    original_size: height and width of the upright original, where the image was decoded at a smaller scale ("torch").

    "torch": bicubic, antialiased, on bytes. "adm": the crop of published evaluations, halved by box averages while both
    sides are at least twice the shape's, then bicubic by Pillow. Source: guided-diffusion (arXiv:2105.05233).
    """
    height, width = original_size or image.shape[:2]
    crop_height, crop_width = shape
    y_cut = _cut(height, shown=width * crop_height / crop_width)
    x_cut = _cut(width, shown=height * crop_width / crop_height)
    cut_height, cut_width = height - 2 * y_cut, width - 2 * x_cut
    y_step, x_step = image.shape[0] / height, image.shape[1] / width  # 1 where the image was decoded in full
    middle = image[
        round(y_cut * y_step) : round((y_cut + cut_height) * y_step),
        round(x_cut * x_step) : round((x_cut + cut_width) * x_step),
    ]
    resized = _resize(middle, (cut_height, cut_width), shape, resize)
    top, left = (resized.shape[0] - crop_height) // 2, (resized.shape[1] - crop_width) // 2
    pixels = resized[top : top + crop_height, left : left + crop_width].permute(2, 0, 1).contiguous()
    # From pixels of the resized image back to the original's.
    y_scale, x_scale = cut_height / resized.shape[0], cut_width / resized.shape[1]
    crop_top, crop_left = y_cut + round(top * y_scale), x_cut + round(left * x_scale)
    # Of an image that is one pixel wide, a crop shows at least that.
    crop_right = crop_left + max(1, round(crop_width * x_scale))
    crop_bottom = crop_top + max(1, round(crop_height * y_scale))
    crop = (crop_left, crop_top, crop_right, crop_bottom)
    return View(pixels, (height, width), crop)


def to_float(images: Tensor) -> Tensor:
    """Return images as the model takes them, float32, in [-1, 1]; images: uint8."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Return images as files hold them, uint8, clamped and rounded half up; images: float, [-1, 1]."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5 + 0.5).floor().to(torch.uint8)


def _cut(side: int, shown: float) -> int:
    """Return the pixels to leave out at both ends of a side; shown: those of it that a crop of the other side shows.

    A strip of 1 x 10,000 pixels would be gigabytes once its short side is resized, for one crop of its middle.
    """
    return (side - max(1, round(_KEPT * shown))) // 2 if side > _LONGEST * shown else 0


def _resize(image: np.ndarray, original_size: tuple[int, int], shape: tuple[int, int], resize: Resize) -> Tensor:
    """Return an image resized so that it just covers `shape`, [h, w, 3], uint8; image: [h, w, 3], uint8.

    original_size: the height and width that the image has in its file.
    """
    crop_height, crop_width = shape
    if resize == "adm":
        while image.shape[0] >= 2 * crop_height and image.shape[1] >= 2 * crop_width:
            image = resize_image(image, image.shape[0] // 2, image.shape[1] // 2, "box")
        original_size = image.shape[:2]
    height, width = original_size
    if crop_height * width >= crop_width * height:  # as wide as the shape, or wider
        height, width = crop_height, max(crop_width, round(width * crop_height / height))
    else:
        height, width = max(crop_height, round(height * crop_width / width)), crop_width

    if resize == "adm":
        return torch.from_numpy(resize_image(image, height, width, "bicubic"))
    # Channels last in memory, and seen to be: permute(2, 0, 1)[None] has strides that take the slow path.
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    return F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)[0].permute(1, 2, 0)
