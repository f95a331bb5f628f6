"""Crops and their augmentation equal Pillow, colorsys and plain loops, and occur as often as they should."""

import colorsys
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from tcae_cli.images.image_file import decode_image
from tcae_cli.recipe.schema import DataSpec
from tcae_cli.training.views import augmentation as augment
from tcae_cli.training.views.augmentation import FIRST_GLOBAL, LOCAL, SECOND_GLOBAL, Distortion, distort, draw_box

UNTOUCHED = Distortion(blur=0.0, solarise=0.0)


@pytest.fixture(scope="module")
def photograph(photos) -> np.ndarray:
    return decode_image((photos / "thing" / "0.jpg").read_bytes())


@pytest.fixture(scope="module")
def pixels(photograph) -> Tensor:
    return to_planes(photograph)


def to_planes(image: np.ndarray | Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def random() -> np.random.Generator:
    return np.random.default_rng(0)


def share(seen: Callable[[], bool], draws: int = 400) -> float:
    return sum(seen() for _ in range(draws)) / draws


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
@pytest.mark.parametrize(
    ("scale", "enhance"),
    [
        (augment.scale_brightness, ImageEnhance.Brightness),
        (augment.scale_contrast, ImageEnhance.Contrast),
        (augment.scale_saturation, ImageEnhance.Color),
    ],
)
def test_brightness_contrast_and_saturation_are_pillows(photograph, pixels, scale, enhance, factor):
    expected = to_planes(enhance(Image.fromarray(photograph)).enhance(factor))
    assert (scale(pixels, factor) - expected).abs().max() < 2  # Pillow rounds its greys
    assert (expected - pixels).abs().max() > 20 or factor == 1


@pytest.mark.parametrize("turn", [-0.1, 0.0, 0.07, 0.4])
def test_hue_turns_as_in_colorsys(pixels, turn):
    special = torch.tensor([[0, 0, 0], [255, 255, 255], [90, 90, 90], [255, 0, 0], [0, 80, 80]]).T.float()
    colours = torch.cat([special, pixels[:, ::7, ::5].flatten(1)], 1)
    turned = augment.shift_hue(colours[:, None], turn)[:, 0]
    for colour, ours in zip(colours.T.tolist(), turned.T, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        expected = torch.tensor(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value))
        assert torch.allclose(ours, expected, atol=1e-2)


def test_grey_is_pillows(photograph, pixels):
    expected = torch.from_numpy(np.array(ImageOps.grayscale(Image.fromarray(photograph)))).float()
    assert (augment.to_grey(pixels)[0] - expected).abs().max() < 1


@pytest.mark.parametrize("radius", [0.1, 0.7, 2.0])
def test_blur_is_a_sum_over_neighbours_weighted_by_a_gaussian(pixels, radius):
    part = pixels[:, :9, :12]
    reach = math.ceil(3 * radius)
    near = range(-reach, reach + 1)
    weights = {(y, x): math.exp(-(y * y + x * x) / (2 * radius**2)) for y in near for x in near}
    expected = torch.zeros_like(part)
    for (dy, dx), weight in weights.items():
        rows = (torch.arange(9) + dy).clamp(0, 8)
        columns = (torch.arange(12) + dx).clamp(0, 11)
        expected += weight / sum(weights.values()) * part[:, rows][:, :, columns]
    assert torch.allclose(augment.blur(part, radius), expected, atol=1e-2)


@pytest.mark.parametrize("radius", [1.0, 2.0])
def test_blur_is_near_pillows(photograph, pixels, radius):
    expected = to_planes(Image.fromarray(photograph).filter(ImageFilter.GaussianBlur(radius)))
    ours = augment.blur(pixels, radius)
    assert (ours - expected).abs().mean() < 0.1 * (pixels - expected).abs().mean()  # Pillow approximates


def test_blur_reaches_over_the_whole_of_a_tiny_crop():
    assert torch.allclose(augment.blur(torch.full((3, 2, 2), 7.0), 2.0), torch.tensor(7.0))


def test_solarising_inverts_from_128_on_as_pillow_does():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.array(ImageOps.solarize(Image.fromarray(levels), 128))
    assert np.array_equal(augment.solarise(torch.from_numpy(levels)), expected)


def test_a_crop_that_nothing_happens_to_keeps_its_bytes(photograph):
    crop = torch.from_numpy(photograph).permute(2, 0, 1)
    draws = random()
    # Neither jitter nor grey: 0.2 * 0.8.
    assert share(lambda: torch.equal(distort(crop, UNTOUCHED, draws), crop)) == pytest.approx(0.16, abs=0.05)


def test_a_fifth_of_the_crops_is_grey(photograph):
    crop, draws = torch.from_numpy(photograph[:16, :16]).permute(2, 0, 1), random()

    def is_grey() -> bool:
        red, green, blue = distort(crop, LOCAL, draws)
        return torch.equal(red, green) and torch.equal(green, blue)

    assert share(is_grey) == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize(
    ("distortion", "expected"), [(FIRST_GLOBAL, 1.0), (SECOND_GLOBAL, 0.1), (LOCAL, 0.5)], ids=["1", "2", "local"]
)
def test_kinds_of_crops_are_blurred_as_often_as_in_ibot(distortion, expected):
    dot, draws = torch.zeros(3, 9, 9, dtype=torch.uint8), random()
    dot[:, 4, 4] = 255

    def is_blurred() -> bool:
        crop = distort(dot, distortion, draws).int()
        if crop[0, 4, 4] < crop[0, 0, 0]:  # solarised: what was bright is not
            crop = 255 - crop
        return bool(crop[0, 4, 5] > crop[0, 0, 0] + 3)

    # A radius below 0.4 of U(0.1, 2) leaves nothing to see beside the dot.
    assert share(is_blurred) == pytest.approx(expected * 0.84, abs=0.06)


@pytest.mark.parametrize(
    ("distortion", "expected"), [(FIRST_GLOBAL, 0.0), (SECOND_GLOBAL, 0.2), (LOCAL, 0.0)], ids=["1", "2", "local"]
)
def test_only_second_global_crops_are_solarised(distortion, expected):
    white, draws = torch.full((3, 4, 4), 255, dtype=torch.uint8), random()
    assert share(lambda: bool(distort(white, distortion, draws).max() < 128)) == pytest.approx(
        expected, abs=0.05 * (expected > 0)
    )


def test_jitter_comes_in_every_order(monkeypatch):
    orders, order = set(), []
    for name in ("scale_brightness", "scale_contrast", "scale_saturation", "shift_hue"):
        monkeypatch.setattr(augment, name, lambda pixels, name=name, **_: order.append(name) or pixels)
    draws = random()
    for _ in range(300):
        order.clear()
        distort(torch.zeros(3, 2, 2, dtype=torch.uint8), UNTOUCHED, draws)
        orders.add(tuple(order))
    assert len(orders - {()}) == 24


def test_boxes_have_the_areas_and_aspects_asked_for():
    draws = random()
    boxes = np.array([draw_box(300, 400, (0.05, 0.32), draws) for _ in range(2000)])
    top, left, height, width = boxes.T
    areas, aspects = height * width / (300 * 400), np.log(width / height)
    assert areas.min() > 0.049 and areas.max() < 0.325
    assert areas.mean() == pytest.approx(0.185, abs=0.01) and areas.std() == pytest.approx(0.27 / 12**0.5, abs=0.01)
    assert abs(aspects).max() < math.log(4 / 3) + 0.02
    assert aspects.mean() == pytest.approx(0, abs=0.02) and aspects.std() == pytest.approx(0.166, abs=0.01)
    assert top.min() == left.min() == 0 and (top + height).max() == 300 and (left + width).max() == 400


@pytest.mark.parametrize(
    ("image", "box"),
    [((10, 1000), (0, 493, 10, 13)), ((1000, 10), (493, 0, 13, 10)), ((1, 1), (0, 0, 1, 1))],
)
def test_a_strip_that_no_box_fits_into_gives_its_middle(image, box):
    assert draw_box(*image, (0.32, 1.0), random()) == box


def test_a_crop_is_its_box_resized_as_pillow_does_and_mirrored_half_the_time(photograph):
    mirrored = 0
    for seed in range(200):
        top, left, height, width = draw_box(72, 96, (0.32, 1.0), np.random.default_rng(seed))
        crop = augment.random_resized_crop(photograph, 24, (0.32, 1.0), np.random.default_rng(seed)).int()
        part = Image.fromarray(photograph[top : top + height, left : left + width])
        expected = to_planes(part.resize((24, 24), Image.Resampling.BICUBIC))
        differences = [(expected - crop).abs().max(), (expected - crop.flip(-1)).abs().max()]
        assert min(differences) <= 1 < max(differences)
        mirrored += differences[1] <= 1
    assert 70 < mirrored < 130


def test_a_clean_view_is_a_window_of_the_resized_image(photograph):
    spec = DataSpec(resize_min=64, resize_max=64, flip=0.0)
    resized = augment.resize(photograph, 64, 85)
    windows = {resized[:, :, left : left + 64].numpy().tobytes() for left in range(22)}
    draws = random()
    seen = {augment.clean_view(photograph, spec, 64, draws).numpy().tobytes() for _ in range(100)}
    assert seen <= windows and len(seen) > 15


def test_a_clean_view_of_a_long_strip_is_of_its_middle():
    strip = np.full((4, 100_000, 3), 255, np.uint8)  # resized whole it would be 1.2 GB
    strip[:, 50_000 - 100 : 50_000 + 100] = 7
    view = augment.clean_view(strip, DataSpec(resize_min=64, resize_max=64), 64, random())
    assert view.shape == (3, 64, 64) and (view == 7).all()
