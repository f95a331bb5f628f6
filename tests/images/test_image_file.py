"""Every file a data set may hold becomes the picture a viewer shows, or fails in one sentence."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from tcae_cli.errors import ImageError
from tcae_cli.images.image_file import decode_image, draw_grid, encode_image
from tcae_cli.recipe.choices import ImageFormat

_Y, _X = np.mgrid[0:40, 0:60]
PICTURE = np.stack([_Y * 6, _X * 4, 255 - _X * 2 - _Y * 3], axis=-1).astype(np.uint8)  # [40, 60, 3], smooth


def file_of(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def first_half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def solid(mode: str, colour: object, size: tuple[int, int] = (6, 4)) -> Image.Image:
    return Image.new(mode, size, colour)  # type: ignore[arg-type]


def assert_all(pixels: np.ndarray, colour: tuple[int, int, int], tolerance: int = 0) -> None:
    assert pixels.shape == (4, 6, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - colour).max() <= tolerance, pixels[0, 0]


def test_pixels_come_back_as_written():
    assert np.array_equal(decode_image(encode_image(PICTURE, "png")), PICTURE)


@pytest.mark.parametrize("format", ["jpg", "webp"])
def test_lossy_formats_come_close(format: ImageFormat):
    decoded = decode_image(encode_image(PICTURE, format))
    assert np.abs(decoded.astype(int) - PICTURE).mean() < 3


def test_pixels_can_be_handed_to_torch_for_writing():
    assert decode_image(encode_image(PICTURE, "png")).flags.writeable


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>", r"not an image that can be read \(16 bytes\)"),
        (first_half(encode_image(PICTURE, "jpg")), "truncated"),
        (first_half(encode_image(PICTURE, "png")), "damaged"),
        (first_half(encode_image(PICTURE, "webp")), "image"),
        (encode_image(PICTURE, "png")[:20], "damaged|not an image"),
    ],
    ids=["zero bytes", "not an image", "truncated jpg", "truncated png", "truncated webp", "header only"],
)
def test_a_file_that_is_not_a_whole_image_says_why(data: bytes, reason: str):
    with pytest.raises(ImageError, match=reason) as raised:
        decode_image(data)
    assert raised.value.stage == "decode"


def test_a_program_that_draws_is_not_run():
    with pytest.raises(ImageError, match="not an image that can be read"):
        decode_image(file_of(solid("RGB", "red"), "EPS"))


def test_damaged_bytes_never_raise_anything_else():
    random = np.random.default_rng(0)
    image = Image.fromarray(PICTURE)
    whole = [file_of(image, format) for format in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000")]
    for data in whole * 40:
        damaged = bytearray(data)
        for position in random.integers(len(damaged), size=8):
            damaged[position] = random.integers(256)
        try:
            decode_image(bytes(damaged))
        except ImageError as error:
            assert error.stage == "decode"


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="decompression bomb"):
        decode_image(file_of(solid("RGB", "red", (15, 15))))


def test_a_large_picture_below_the_limit_is_no_news(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert_all(decode_image(file_of(solid("RGB", "red"))), (255, 0, 0))


def test_grey_and_black_and_white():
    assert_all(decode_image(file_of(solid("L", 70))), (70, 70, 70))
    assert_all(decode_image(file_of(solid("1", 1))), (255, 255, 255))


def test_cmyk():
    assert_all(decode_image(file_of(solid("CMYK", (0, 255, 255, 0)), "JPEG", quality=95)), (255, 0, 0), tolerance=4)


@pytest.mark.parametrize(("sixteen", "eight"), [(0, 0), (65535, 255), (257 * 100, 100), (257 * 100 + 200, 101)])
def test_16_bit_greys_are_scaled(sixteen: int, eight: int):
    image = Image.fromarray(np.full((4, 6), sixteen, np.uint16))
    for format in ("PNG", "TIFF", "PPM"):
        assert_all(decode_image(file_of(image, format)), (eight, eight, eight))


def test_pixels_without_a_known_range_fail():
    with pytest.raises(ImageError, match="floating-point pixels have no known range"):
        decode_image(file_of(solid("F", 0.5), "TIFF"))
    with pytest.raises(ImageError, match="32-bit pixels have no known range"):
        decode_image(file_of(solid("I", 1_000_000), "TIFF"))


def test_transparent_parts_are_white():
    assert_all(decode_image(file_of(solid("RGBA", (255, 0, 0, 0)))), (255, 255, 255))
    assert_all(decode_image(file_of(solid("RGBA", (255, 0, 0, 255)))), (255, 0, 0))
    assert_all(decode_image(file_of(solid("RGBA", (0, 0, 0, 128)))), (127, 127, 127), tolerance=1)
    assert_all(decode_image(file_of(solid("LA", (40, 0)))), (255, 255, 255))


def test_palette_with_and_without_transparency():
    palette = solid("RGB", (200, 10, 20)).quantize(4)
    assert_all(decode_image(file_of(palette)), (200, 10, 20))
    assert_all(decode_image(file_of(palette, transparency=palette.getpixel((0, 0)))), (255, 255, 255))


def test_a_colour_that_stands_for_transparency():
    assert_all(decode_image(file_of(solid("RGB", (9, 8, 7)), transparency=(9, 8, 7))), (255, 255, 255))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(format: str):
    frames = [solid("RGB", colour) for colour in ("red", "lime", "blue")]
    data = file_of(frames[0], format, save_all=True, append_images=frames[1:])
    assert_all(decode_image(data), (255, 0, 0), tolerance=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photograph_stands_upright(orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(Image.fromarray(PICTURE[:8, :12].copy()), exif=exif)
    with Image.open(io.BytesIO(data)) as stored:
        expected = np.array(ImageOps.exif_transpose(stored))
    assert np.array_equal(decode_image(data), expected)
    assert (decode_image(data).shape == (12, 8, 3)) == (orientation >= 5)


def test_damaged_exif_does_not_cost_the_picture():
    assert_all(decode_image(file_of(solid("RGB", "red"), exif=b"Exif\0\0rubbish that is no EXIF at all")), (255, 0, 0))


def profile_of(name: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()  # type: ignore[arg-type]


def swapped_profile() -> bytes:
    """An RGB profile of which the red and green primaries are exchanged."""
    profile = bytearray(profile_of("sRGB"))
    tags = {bytes(profile[i : i + 4]): i for i in range(132, 132 + 12 * profile[131], 12)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    profile[red + 4 : red + 12], profile[green + 4 : green + 12] = (
        profile[green + 4 : green + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile)


def test_a_profile_moves_colours_to_srgb():
    data = file_of(solid("RGB", (255, 0, 0)), icc_profile=swapped_profile())
    assert_all(decode_image(data), (0, 255, 0), tolerance=2)


def test_a_profile_counts_under_transparency_and_for_greys():
    half = file_of(solid("RGBA", (255, 0, 0, 128)), icc_profile=swapped_profile())
    assert_all(decode_image(half), (127, 255, 127), tolerance=2)
    assert_all(decode_image(file_of(solid("L", 90), icc_profile=swapped_profile())), (90, 90, 90), tolerance=1)


def test_an_srgb_profile_changes_nothing():
    data = file_of(Image.fromarray(PICTURE), icc_profile=profile_of("sRGB"))
    assert np.array_equal(decode_image(data), PICTURE)


@pytest.mark.parametrize("profile", [b"no profile at all", profile_of("LAB")], ids=["unreadable", "of another space"])
def test_a_profile_that_cannot_apply_is_taken_as_srgb(profile: bytes):
    assert_all(decode_image(file_of(solid("RGB", (9, 8, 7)), icc_profile=profile)), (9, 8, 7))


def with_chunk(data: bytes, kind: bytes, contents: bytes, after_pixels: bool = False) -> bytes:
    """A PNG file with one more chunk, before or after its pixels."""
    place = data.index(b"IEND" if after_pixels else b"IDAT") - 4
    chunk = struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))
    return data[:place] + chunk + data[place:]


LONG_TEXT = b"a" * (5 << 20)


@pytest.mark.parametrize("after_pixels", [False, True])
@pytest.mark.parametrize(
    ("kind", "contents"),
    [
        (b"zTXt", b"parameters\0\0" + zlib.compress(LONG_TEXT)),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LONG_TEXT)),
        (b"iTXt", b"scene\0\0\0de\0Szene\0" + LONG_TEXT * 13),
        (b"tEXt", b"history\0" + LONG_TEXT * 13),
        (b"iCCP", b"a profile\0\0" + zlib.compress(LONG_TEXT)),
    ],
    ids=["zTXt", "compressed iTXt", "iTXt", "tEXt", "iCCP"],
)
def test_a_text_of_any_size_costs_a_png_nothing(kind: bytes, contents: bytes, after_pixels: bool):
    data = with_chunk(encode_image(PICTURE, "png"), kind, contents, after_pixels)
    assert np.array_equal(decode_image(data), PICTURE)


def test_many_texts_that_are_large_together_cost_a_png_nothing():
    texts = PngInfo()
    for number in range(17):
        texts.add_text(f"layer {number}", "b" * (4 << 20), zip=number % 2 == 0)
    assert np.array_equal(decode_image(file_of(Image.fromarray(PICTURE), pnginfo=texts)), PICTURE)


def test_a_text_that_expands_a_thousandfold_is_not_expanded():
    bomb = with_chunk(encode_image(PICTURE, "png"), b"zTXt", b"k\0\0" + zlib.compress(bytes(64 << 20), 9))
    tracemalloc.start()
    assert np.array_equal(decode_image(bomb), PICTURE)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 16 << 20


def test_a_profile_of_tables_counts_although_it_is_large():
    profile = swapped_profile() + bytes(2 << 20)
    profile = struct.pack(">I", len(profile)) + profile[4:]
    assert_all(decode_image(file_of(solid("RGB", (255, 0, 0)), icc_profile=profile)), (0, 255, 0), tolerance=2)


def test_what_is_damaged_beside_a_large_text_is_damaged():
    data = with_chunk(encode_image(PICTURE, "png"), b"zTXt", b"k\0\0" + zlib.compress(LONG_TEXT))
    with pytest.raises(ImageError, match="truncated"):
        decode_image(data[:-40])
    cut_inside_text = data[: data.index(b"zTXt") + 90]
    with pytest.raises(ImageError, match="damaged"):
        decode_image(cut_inside_text)


def test_one_pixel():
    assert decode_image(file_of(solid("RGB", (1, 2, 3), (1, 1)))).tolist() == [[[1, 2, 3]]]


def test_a_grid_shows_rows_of_images_on_white():
    red, blue = (np.full((4, 6, 3), colour, np.uint8) for colour in [(255, 0, 0), (0, 0, 255)])
    grid = draw_grid([[red, blue], [blue]], gap=2)
    assert grid.shape == (2 * 4 + 3 * 2, 2 * 6 + 3 * 2, 3)
    assert np.array_equal(grid[2:6, 2:8], red) and np.array_equal(grid[2:6, 10:16], blue)
    assert (grid[8:12, 10:16] == 255).all() and (grid[:2] == 255).all()
