"""Large JPEGs are decoded at a smaller scale that keeps twice the pixels asked for, and show what they show in full."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tcae_cli.errors import ImageError
from tcae_cli.images.image_file import decode_image, decode_scaled
from tcae_cli.images.transform import Transform, View, resize_and_crop

from ..pictures import photograph


def file_of(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **({"quality": 92} if format == "JPEG" else {}) | options)
    return buffer.getvalue()


def at_least(side: int):
    return lambda height, width: side


def view(data: bytes, shape: int | tuple[int, int], decode: str) -> View:
    shape = (shape, shape) if isinstance(shape, int) else shape
    pixels, original_size = decode_scaled(data, Transform((shape,), "torch", decode).least_side)
    return resize_and_crop(pixels, shape, "torch", original_size)


def psnr(one: View, other: View) -> float:
    return float(-10 * torch.log10(((one.pixels.float() - other.pixels.float()) / 255).square().mean()))


@pytest.mark.parametrize(
    ("height", "width", "least", "scale"),
    [
        (600, 800, 601, 1),
        (600, 800, 301, 1),
        (600, 800, 300, 2),
        (600, 800, 151, 2),
        (600, 800, 150, 4),
        (800, 600, 150, 4),
        (600, 800, 75, 8),
        (600, 800, 10, 8),
        (599, 801, 300, 1),
        (603, 805, 150, 4),
        (607, 807, 75, 8),
    ],
)
def test_the_scale_is_the_smallest_that_keeps_the_short_side(height: int, width: int, least: int, scale: int):
    picture = decode_scaled(file_of(photograph(height, width)), at_least(least))
    assert picture.pixels.shape == (height // scale, width // scale, 3)
    assert picture.original_size == (height, width)


def test_the_least_side_is_asked_for_with_the_size_in_the_file():
    asked = []
    decode_scaled(file_of(photograph(600, 800)), lambda *size: asked.append(size) or 300)
    assert asked == [(600, 800)]


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP"])
def test_other_formats_are_decoded_in_full(format: str):
    data = file_of(photograph(600, 800), format)
    assert np.array_equal(decode_scaled(data, at_least(75)).pixels, decode_image(data))


def test_a_jpeg_that_is_not_large_is_decoded_in_full():
    data = file_of(photograph(600, 800))
    assert np.array_equal(decode_scaled(data, at_least(301)).pixels, decode_image(data))
    assert decode_image(data).shape == (600, 800, 3)


@pytest.mark.parametrize("sizes", [(64,), (128, 32), (32, 128)])
def test_a_draft_keeps_twice_the_pixels_of_the_largest_size(sizes: tuple[int, ...]):
    shapes = tuple((size, size) for size in sizes)
    assert Transform(shapes, "torch", "draft").least_side(3000, 4000) == 2 * max(sizes)
    assert Transform(shapes, "torch").least_side(3000, 4000) == 3000


@pytest.mark.parametrize(
    ("shape", "least"),
    [((96, 128), 192), ((128, 96), 256), ((64, 160), 240), ((160, 64), 320)],
)
def test_a_draft_keeps_twice_the_pixels_of_an_oblong_crop(shape: tuple[int, int], least: int):
    """The image of 3000 x 4000 covers 96 x 128 exactly; for 64 x 160 its width is what counts."""
    assert Transform((shape,), "torch", "draft").least_side(3000, 4000) == least


@pytest.mark.parametrize("orientation", [1, 6])
def test_an_oblong_crop_of_a_draft_is_that_of_the_full_image(orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(photograph(611, 811) if orientation == 1 else photograph(811, 611), exif=exif)
    draft, full = view(data, (64, 96), "draft"), view(data, (64, 96), "full")
    assert decode_scaled(data, Transform(((64, 96),), "torch", "draft").least_side).pixels.shape[0] < 611
    assert draft[1:] == full[1:] and full.original_size == (611, 811)
    assert 45 < psnr(draft, full) < 70


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize(("height", "width"), [(1500, 2000), (1501, 2003), (2047, 1543)])
def test_a_view_of_a_draft_is_that_of_the_full_image(height: int, width: int, size: int):
    data = file_of(photograph(height, width))
    draft, full = view(data, size, "draft"), view(data, size, "full")
    assert draft.original_size == full.original_size == (height, width)
    assert draft.crop == full.crop
    assert 45 < psnr(draft, full) < 70


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_draft_is_that_of_the_turned_image(orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(photograph(611, 811), exif=exif)
    draft, full = view(data, 64, "draft"), view(data, 64, "full")
    assert draft.original_size == ((611, 811) if orientation < 5 else (811, 611))
    assert draft[1:] == full[1:]
    assert 45 < psnr(draft, full) < 70


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_draft_in_grey_or_cmyk_is_that_of_the_full_image(mode: str):
    data = file_of(photograph(611, 811).convert(mode))
    assert 45 < psnr(view(data, 64, "draft"), view(data, 64, "full")) < 70


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 2}, {"format": "MPO"}])
def test_a_draft_of_any_kind_of_jpeg_is_that_of_the_full_image(options: dict):
    data = file_of(photograph(611, 811), **options)
    assert decode_scaled(data, at_least(128)).pixels.shape == (152, 202, 3)
    assert 45 < psnr(view(data, 64, "draft"), view(data, 64, "full")) < 70


def test_a_strip_is_cut_at_the_same_place():
    data = file_of(photograph(257, 2801))
    draft, full = view(data, 64, "draft"), view(data, 64, "full")
    assert decode_scaled(data, at_least(128)).pixels.shape[0] == 128
    assert draft[1:] == full[1:]
    assert psnr(draft, full) > 40  # it is cut at a whole pixel of the draft


def test_a_draft_of_a_truncated_file_fails():
    data = file_of(photograph(600, 800))
    with pytest.raises(ImageError, match="truncated"):
        decode_scaled(data[: len(data) // 2], at_least(75))
