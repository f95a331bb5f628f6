"""Decodes image files to pixels and encodes them again; the one file that knows Pillow."""

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from tcae_cli.errors import ImageError
from tcae_cli.images.png_chunks import without_large_texts
from tcae_cli.recipe.choices import ImageFormat

OVERSAMPLING = 2  # pixels on each side that a scaled image keeps for each one that is asked for

# Of a compressed text or colour profile in a PNG file: a profile made of tables may have more than Pillow's 1 MiB.
PngImagePlugin.MAX_TEXT_CHUNK = 4 << 20

LeastSide = Callable[[int, int], int]  # from an upright image's height and width: its least short side when decoded

# Not all that Pillow knows: an EPS file by the name of a.jpg would be run by Ghostscript.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DRAFTED = ("JPEG", "MPO")  # formats that can be decoded at a smaller scale
_SIDEWAYS = (5, 6, 7, 8)  # orientations of files whose width is the picture's height
_PROFILE_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space of a profile -> mode of its images
_SAVE_OPTIONS: dict[str, tuple[str, dict[str, int]]] = {
    "png": ("PNG", {}),
    "jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    "webp": ("WEBP", {"quality": 95}),
}
# Errors of Pillow's parsers when bytes are not what their headers promise, found by feeding them damaged files.
_DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


class Picture(NamedTuple):
    """The decoded image of a file."""

    pixels: np.ndarray  # [h, w, 3], uint8, sRGB, upright
    original_size: tuple[int, int]  # height and width of the file's image, upright, in pixels


def decode_image(data: bytes) -> np.ndarray:
    """Decode an image file in full to the picture that a viewer shows, [h, w, 3], uint8, sRGB.

    Turned as its EXIF says, transparent parts on white, 16 bits scaled to 8, colours converted when a profile says
    they are not sRGB, the first frame of an animation. Texts in a PNG file may have any size; a colour profile of more
    than 4 MiB in one is not applied.
    Raises ImageError("decode") if it is not an image, is damaged or truncated, or has more pixels than Pillow's limit
    against decompression bombs (179 million).
    """
    return decode_scaled(data, least_side=min).pixels


def decode_scaled(data: bytes, least_side: LeastSide) -> Picture:
    """Decode an image file as `decode_image` does, but a large JPEG at 1/2, 1/4 or 1/8 of its size.

    The scale is the smallest at which the short side keeps the pixels that `least_side` gives. Fewer pixels are then
    computed from each block of the file, so that 12 megapixels take a third of the time. Other formats are decoded in
    full.
    """
    with _reading_image(data) as image:
        size = image.height, image.width
        scaled = None
        if image.format in _DRAFTED:
            least = least_side(*_upright(size, _orientation(image)))
            scaled = image.draft(None, (least, least))  # sets the scale, which may be 1
        image.load()
        picture, orientation = _to_srgb(image), _orientation(image)
        if scaled:
            _, (_, _, scaled_width, scaled_height) = scaled
            picture = _fit(picture, scaled_height, scaled_width)
        turn = _UPRIGHT.get(orientation)
        pixels = np.array(picture if turn is None else picture.transpose(turn))
        return Picture(pixels, _upright(size, orientation))


def image_size(data: bytes) -> tuple[int, int]:
    """Return the height and width of the picture in an image file, upright, by its header alone.

    Raises ImageError("decode") if it is not an image, or its header is damaged.
    """
    with _reading_image(data) as image:
        return _upright((image.height, image.width), _orientation(image))


def encode_image(pixels: np.ndarray, format: ImageFormat) -> bytes:
    """Encode pixels, [h, w, 3], uint8, sRGB, as an image file."""
    buffer = BytesIO()
    name, options = _SAVE_OPTIONS[format]
    Image.fromarray(pixels).save(buffer, name, **options)
    return buffer.getvalue()


def resize_image(pixels: np.ndarray, height: int, width: int, method: Literal["box", "bicubic"]) -> np.ndarray:
    """Resize pixels by Pillow, from [h, w, 3] to [height, width, 3], uint8."""
    resampling = Image.Resampling.BOX if method == "box" else Image.Resampling.BICUBIC
    return np.array(Image.fromarray(pixels).resize((width, height), resampling))


def draw_grid(rows: Sequence[Sequence[np.ndarray]], gap: int = 4) -> np.ndarray:
    """Draw a contact sheet on white, [H, W, 3]; rows: images, each [h, w, 3], uint8; gap: pixels.

    A row of the sheet is as high as its highest image, and a column as wide as the widest image of all.
    """
    width = max(image.shape[1] for row in rows for image in row)
    heights = [max(image.shape[0] for image in row) for row in rows]
    columns = max(len(row) for row in rows)
    shape = (sum(heights) + gap * (len(rows) + 1), columns * (width + gap) + gap, rows[0][0].shape[2])
    sheet = np.full(shape, 255, np.uint8)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for x, image in enumerate(row):
            left = gap + x * (width + gap) + (width - image.shape[1]) // 2
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
        top += height + gap
    return sheet


@contextmanager
def _reading_image(data: bytes) -> Iterator[Image.Image]:
    """Open an image file. Raises ImageError("decode") for what Pillow finds wrong with it, also within the context."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of images near its limit and of odd headers, but decodes them all the same.
            warnings.simplefilter("ignore")
            readable = without_large_texts(data, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
            with Image.open(BytesIO(readable), formats=_FORMATS) as image:
                yield image
    except UnidentifiedImageError:
        found = "the file is empty" if not data else f"not an image that can be read ({len(data)} bytes)"
        raise ImageError("decode", found) from None
    except Image.DecompressionBombError as error:
        raise ImageError("decode", str(error)) from error
    except _DAMAGED as error:
        raise ImageError("decode", f"damaged image ({str(error) or type(error).__name__})") from error


def _upright(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return the height and width of the picture in a file whose image has this height and width."""
    height, width = size
    return (width, height) if orientation in _SIDEWAYS else (height, width)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGED:
        return 1  # damaged EXIF says nothing about the picture


def _fit(image: Image.Image, height: float, width: float) -> Image.Image:
    """Resize a scaled image, of a file that is this high and wide at that scale, to the whole pixels within.

    The last row and column of a scaled image may stand for a part of a pixel. Taken for whole ones they would shift
    all others, by up to a pixel: on photographs, 38 dB against decoding in full and not 53 dB.
    """
    if image.size == (width, height):
        return image
    pixels = torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2)  # channels last: the fast path
    factors = int(height) / height, int(width) / width
    fitted = F.interpolate(pixels, scale_factor=factors, mode="bicubic", antialias=True)[0]
    return Image.fromarray(fitted.permute(1, 2, 0).numpy())


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert an image to mode RGB."""
    profile = image.info.get("icc_profile")
    image = _to_8_bits(image)
    alpha = None
    if image.has_transparency_data:
        grey = image.mode in ("L", "LA", "La")
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("L" if grey else "RGB")
    elif image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    colours = _convert_colours(image, profile)
    if alpha is None:
        return colours
    on_white = Image.new("RGB", image.size, "white")
    on_white.paste(colours, mask=alpha)
    return on_white


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert 16-bit greys to 8 bits; others stay as they are. Raises ValueError if the greys have no known range."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if not image.mode.startswith("I"):
        return image
    greys = np.asarray(image).astype(np.float32)
    if greys.min() < 0 or greys.max() > 65535:
        raise ValueError("32-bit pixels have no known range")
    return Image.fromarray((greys / 257).round().astype(np.uint8))


def _convert_colours(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an image of mode RGB, L or CMYK to sRGB; without a profile it is taken to be sRGB already."""
    conversion = _conversion(profile) if profile else None
    if conversion is not None:
        mode, transform = conversion
        if mode == image.mode or (mode, image.mode) == ("RGB", "L"):
            return transform.apply(image.convert(mode))
    return image.convert("RGB")


@lru_cache(maxsize=32)  # a data set has few profiles, and one takes longer to read than a picture
def _conversion(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """Return the mode and the conversion from a profile to sRGB; None if the profile is sRGB, or not readable."""
    try:
        parsed = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = _PROFILE_MODES[parsed.profile.xcolor_space]
        transform = ImageCms.buildTransform(parsed, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (OSError, KeyError, ImageCms.PyCMSError):
        return None
    if mode == "RGB":
        levels = np.arange(0, 256, 15, dtype=np.uint8)
        colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(levels.size, -1, 3)
        moved = np.asarray(transform.apply(Image.fromarray(colours))).astype(int) - colours
        if abs(moved).max() <= 1:
            return None
    return mode, transform
