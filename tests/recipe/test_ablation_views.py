"""Views that are drawn on the device have the sizes and colours of those that `tcae train` draws."""

from pathlib import Path

import pytest
import torch

from tcae_cli.training.views import augmentation

from .conftest import imported

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def ablation():
    with imported(RECIPES / "ablation.py") as module:
        yield module


@pytest.fixture(scope="module")
def views():
    with imported(RECIPES / "ablation_views.py") as module:
        yield module


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def pixels(random) -> torch.Tensor:
    return 255 * torch.rand(4, 3, 16, 16, generator=random)


def test_a_batch_has_the_views_of_the_recipe_and_is_the_same_every_time(ablation, views):
    recipe = ablation.recipe_of("stc-ssl", 0, None, ablation.TOY)
    images = torch.randint(256, (6, 3, 64, 64), dtype=torch.uint8)
    batches = views.ViewsOnDevice(images, recipe)
    batch, again = batches[1], batches[1]

    assert batch.samples.tolist() == [4, 5, 6, 7]
    assert batch.images.shape == (4, 3, 64, 64) and batch.masks.shape == (4, 2, 2, 2)
    assert batch.global_crops.shape == (4, 2, 3, 32, 32) and batch.local_crops.shape == (4, 1, 3, 16, 16)
    for name in ("images", "global_crops", "local_crops", "masks"):
        assert torch.equal(getattr(batch, name), getattr(again, name)), name
    assert not torch.equal(batch.global_crops, batches[2].global_crops)
    assert {batch.images.dtype, batch.global_crops.dtype, batch.local_crops.dtype} == {torch.uint8}


def test_colours_change_as_those_of_single_images(views, pixels):
    turns, radii = torch.tensor([0.05, -0.1, 0.0, 0.1]), torch.tensor([0.3, 1.9, 1.7, 2.0])
    shifted = views.shift_hue(pixels, turns.view(4, 1, 1, 1))
    blurred = views.blur(pixels, radii.view(4, 1, 1, 1))

    for number, (turn, radius) in enumerate(zip(turns.tolist(), radii.tolist(), strict=True)):
        assert shifted[number].allclose(augmentation.shift_hue(pixels[number], turn), atol=0.01)
        assert blurred[number].allclose(augmentation.blur(pixels[number], radius), atol=0.01)
        assert views.grey(pixels)[number].allclose(augmentation.to_grey(pixels[number]), atol=0.01)


def test_the_whole_of_an_image_is_the_image_or_its_mirror(views, pixels, random):
    whole = torch.ones(4, 2)

    assert views.cut(pixels, 16, whole, 0.0, random).allclose(pixels, atol=0.01)
    assert views.cut(pixels, 16, whole, 1.0, random).allclose(pixels.flip(-1), atol=0.01)


def test_a_box_lies_inside_the_image(views, random):
    ramp = torch.linspace(0, 255, 16).expand(64, 3, 16, 16)
    boxes = views.cut(ramp, 8, torch.full((64, 2), 0.5), 0.0, random)

    widths = (boxes[..., -1] - boxes[..., 0])[:, 0, 0]
    assert widths.allclose(torch.tensor(255 * 7 / 15), atol=12)  # 8 pixels of 16, from centre to centre
    assert boxes.amin() < 30 and boxes.amax() > 225  # everywhere
