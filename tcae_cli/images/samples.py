"""Cuts the colour photographs that come with scikit-image into windows, for whoever has no images at hand.

`python -m tcae_cli.images.samples FOLDER` writes them as PNG, in one folder a photograph.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from tcae_cli.images.image_file import decode_image, encode_image, resize_image

# Bundled in the installed package; pictures that scikit-image downloads, drawings and grey images are not among them.
_PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
_WINDOW = 256  # pixels
_SHORT_SIDE = 512  # pixels, of a photograph at most: about as many windows of each


def write_sample_windows(folder: Path) -> int:
    """Write every whole 256-pixel window of each photograph as FOLDER/name/row-column.png; return their number."""
    package = find_spec("skimage")  # not imported, which would take a second
    assert package is not None and package.origin is not None
    count = 0
    for name in _PHOTOGRAPHS:
        pixels = decode_image((Path(package.origin).parent / "data" / name).read_bytes())
        height, width = pixels.shape[:2]
        scale = min(1.0, _SHORT_SIDE / min(height, width))
        pixels = resize_image(pixels, round(height * scale), round(width * scale), "bicubic")
        target = folder / Path(name).stem
        target.mkdir(parents=True, exist_ok=True)
        for top in range(0, pixels.shape[0] - _WINDOW + 1, _WINDOW):
            for left in range(0, pixels.shape[1] - _WINDOW + 1, _WINDOW):
                window = pixels[top : top + _WINDOW, left : left + _WINDOW]
                (target / f"{top:04d}-{left:04d}.png").write_bytes(encode_image(window, "png"))
                count += 1
    return count


if __name__ == "__main__":
    destination = Path(sys.argv[1])
    print(f"{write_sample_windows(destination)} windows of {len(_PHOTOGRAPHS)} photographs in {destination}")
