"""Image files of every kind, with the picture that a viewer shows; and files that are no pictures."""

import io
import os
from functools import cache

import numpy as np
from PIL import Image, ImageCms, ImageOps


def picture(seed: int, height: int = 72, width: int = 96) -> np.ndarray:
    """Coloured waves, [h, w, 3], uint8, other ones for each seed."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin((x * (channel + 1) + y * (seed % 7 + 1)) / 20 + seed) for channel in range(3)]
    return ((np.stack(waves, -1) + 1) * 127).astype(np.uint8)


def file_of(image: Image.Image | np.ndarray, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, format, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def cmyk() -> tuple[bytes, np.ndarray]:
    data = file_of(Image.fromarray(picture(1)).convert("CMYK"), "JPEG")
    return data, np.array(opened(data).convert("RGB"))


def sixteen_bits() -> tuple[bytes, np.ndarray]:
    greys = picture(2)[..., 0].astype(np.uint16) * 256 + 77
    return file_of(greys), np.repeat((greys / 257).round().astype(np.uint8)[..., None], 3, -1)


def palette_with_transparency() -> tuple[bytes, np.ndarray]:
    image = Image.fromarray(picture(3)).quantize(16)
    seen = np.where((np.array(image) == 5)[..., None], 255, np.array(image.convert("RGB")))
    return file_of(image, transparency=5), seen.astype(np.uint8)


def animated() -> tuple[bytes, np.ndarray]:
    frames = [Image.fromarray(picture(seed)).quantize(64) for seed in (4, 5)]
    data = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    return data, np.array(frames[0].convert("RGB"))


def rotated() -> tuple[bytes, np.ndarray]:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of(picture(6), "JPEG", exif=exif)
    return data, np.array(ImageOps.exif_transpose(opened(data)))


def with_profile() -> tuple[bytes, np.ndarray]:
    """Red and green have each other's primaries."""
    srgb = ImageCms.createProfile("sRGB")
    profile = ImageCms.ImageCmsProfile(srgb).tobytes()
    profile = profile.replace(b"rXYZ", b"....").replace(b"gXYZ", b"rXYZ").replace(b"....", b"gXYZ")
    image = Image.fromarray(picture(7))
    seen = np.array(ImageCms.profileToProfile(image, io.BytesIO(profile), srgb))
    assert np.abs(seen.astype(int) - picture(7)).max() > 50
    return file_of(image, icc_profile=profile), seen


def plain(seed: int, height: int = 72, width: int = 96) -> tuple[bytes, np.ndarray]:
    return file_of(picture(seed, height, width)), picture(seed, height, width)


@cache
def good_images() -> dict[str, tuple[bytes, np.ndarray]]:
    """File and picture by name."""
    photograph = file_of(picture(10), "JPEG")
    return {
        "cmyk.jpg": cmyk(),
        "sixteen bits.png": sixteen_bits(),
        "palette.png": palette_with_transparency(),
        "animated.gif": animated(),
        "rotated.jpg": rotated(),
        "profile.png": with_profile(),
        "one pixel.png": plain(8, 1, 1),
        "long.png": plain(9, 10, 20_000),
        "a.jpg": (photograph, np.array(opened(photograph))),
        "a.png": plain(11),
        "猫/照片.png": plain(12),
        "قطة.png": plain(13),
        "\N{CAT}.png": plain(14),
        "new\nline.png": plain(15),
        os.fsdecode(b"caf\xe9.png"): plain(16),
        "100% \\ ..png": plain(17),
    }


@cache
def bomb() -> bytes:
    """182 million white pixels in few bytes."""
    return file_of(Image.new("1", (14_000, 13_000), 1))


BAD = {  # name -> stage, reason
    "bad/truncated.jpg": ("decode", "image file is truncated"),
    "bad/empty.png": ("decode", "the file is empty"),
    "bad/page.jpg": ("decode", "not an image that can be read (16 bytes)"),
    "bad/bomb.png": ("decode", "Image size (182000000 pixels) exceeds limit"),
    "bad/secret.png": ("read", "Permission denied"),
    "bad/leads nowhere.png": ("read", "No such file or directory"),
    "bad/leads to itself.png": ("read", "Too many levels of symbolic links"),
    "bad/vanished.png": ("read", "No such file or directory"),
}
