"""The view of an image that the model sees, and where in the original it came from."""

import numpy as np
import pytest
import torch

from tcae_cli.images.transform import resize_and_crop, to_float, to_uint8
from tcae_cli.recipe.choices import Resize

RESIZES = pytest.mark.parametrize("resize", ["torch", "adm"])


def gradient(height: int, width: int) -> np.ndarray:
    """Red grows to the right and green downwards, 0 ... 250."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 250, width)
    image[..., 1] = np.linspace(0, 250, height)[:, None]
    return image


@RESIZES
@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (64, 64), (20, 31), (1000, 333), (129, 128)])
def test_a_view_is_the_middle_of_the_image(resize: Resize, height: int, width: int):
    view = resize_and_crop(gradient(height, width), (64, 64), resize)
    assert view.pixels.shape == (3, 64, 64) and view.pixels.dtype == torch.uint8 and view.pixels.is_contiguous()
    assert view.original_size == (height, width)
    left, top, right, bottom = view.crop
    short = min(height, width)
    assert abs(right - left - short) <= 1 and abs(bottom - top - short) <= 1
    assert abs(left + right - width) <= 2 * max(1, short / 64) and abs(top + bottom - height) <= 2 * max(1, short / 64)
    assert abs(view.pixels[0].float().mean() - 125) < 3 and abs(view.pixels[1].float().mean() - 125) < 3


@RESIZES
def test_an_image_of_the_right_size_is_left_alone(resize: Resize):
    image = gradient(64, 64)
    assert np.array_equal(resize_and_crop(image, (64, 64), resize).pixels.permute(1, 2, 0).numpy(), image)


def test_the_two_ways_agree_closely():
    image = gradient(300, 400)
    fast, published = (resize_and_crop(image, (64, 64), resize).pixels.int() for resize in ("torch", "adm"))
    assert (fast - published).abs().max() <= 2


def test_the_published_crop_halves_by_box_averages_first():
    checkers = np.zeros((256, 256, 3), np.uint8)
    checkers[::2, ::2] = checkers[1::2, 1::2] = 255
    assert (resize_and_crop(checkers, (64, 64), "adm").pixels.int() - 128).abs().max() <= 1


@RESIZES
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 20_000), (20_000, 1), (3, 700)])
def test_one_pixel_and_long_strips_have_a_view(resize: Resize, height: int, width: int):
    view = resize_and_crop(gradient(height, width), (64, 64), resize)
    left, top, right, bottom = view.crop
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert abs(left + right - width) <= 2 and abs(top + bottom - height) <= 2


SHAPES = pytest.mark.parametrize("shape", [(64, 64), (48, 80), (80, 48), (32, 128), (128, 32)])


@RESIZES
@SHAPES
@pytest.mark.parametrize(
    ("height", "width"), [(300, 400), (400, 300), (20, 31), (1000, 333), (1, 1), (3, 700), (700, 3)]
)
def test_an_oblong_crop_is_the_largest_middle_of_its_aspect(
    resize: Resize, shape: tuple[int, int], height: int, width: int
):
    view = resize_and_crop(gradient(height, width), shape, resize)
    assert view.pixels.shape == (3, *shape) and view.pixels.is_contiguous()
    left, top, right, bottom = view.crop
    scale = max(shape[0] / height, shape[1] / width)
    most = max(1, 1 / scale)  # a pixel of the original, or of the crop
    assert abs(bottom - top - shape[0] / scale) <= most and abs(right - left - shape[1] / scale) <= most
    assert abs(left + right - width) <= 2 * max(1, 1 / scale) and abs(top + bottom - height) <= 2 * max(1, 1 / scale)


@RESIZES
@SHAPES
@pytest.mark.parametrize(("height", "width"), [(1, 5000), (5000, 1), (8, 8)])
def test_an_extreme_shape_has_a_crop_of_any_aspect(resize: Resize, shape: tuple[int, int], height: int, width: int):
    view = resize_and_crop(gradient(height, width), shape, resize)
    assert view.pixels.shape == (3, *shape)
    left, top, right, bottom = view.crop
    assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_an_oblong_published_crop_halves_while_both_sides_have_twice_the_pixels():
    checkers = np.zeros((256, 256, 3), np.uint8)
    checkers[::2, ::2] = checkers[1::2, 1::2] = 255
    assert (resize_and_crop(checkers, (64, 128), "adm").pixels.int() - 128).abs().max() <= 1


def test_bytes_to_floats_and_back_is_exact():
    values = torch.arange(256, dtype=torch.uint8)
    assert to_float(values).min() == -1 and to_float(values).max() == 1
    assert torch.equal(to_uint8(to_float(values)), values)


def test_floats_are_clamped_and_rounded_half_up():
    floats = torch.tensor([-7.0, 7.0, 0.5 / 127.5 - 1, 0.49 / 127.5 - 1])
    assert to_uint8(floats).tolist() == [0, 255, 1, 0]
