"""Training decodes large JPEGs at a smaller scale where every view that may be drawn keeps twice its pixels."""

import io
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
import torch

from tcae_cli.images.image_file import decode_image
from tcae_cli.recipe.schema import Recipe
from tcae_cli.sources.scan import open_source
from tcae_cli.training.views.augmentation import draw_box
from tcae_cli.training.views.batches import TrainingViews
from tcae_cli.training.views.crops import SampleViews, decode_for_views, least_side_of_views, sample_views
from tcae_cli.training.views.stream import TrainingStream, stream_training_batches
from tcae_cli.training.views.tar_stream import Tars, expand_tars

from ...pictures import photograph

CROPS = {"global_size": 48, "local_size": 16, "num_local_crops": 3}


def recipe(resize_max: int = 64, shuffle_buffer: int | None = None, **crops) -> Recipe:
    return Recipe(
        model={"preset": "tiny", "image_size": 64, "patch_size": 8},
        data={"resize_min": 64, "resize_max": resize_max, "shuffle_buffer": shuffle_buffer},
        loss={"self_distillation": crops} if crops else {},
        train={"steps": 1, "batch_size": 2},
    )


def jpeg(height: int, width: int, first: int = 0) -> bytes:
    buffer = io.BytesIO()
    photograph(height, width, first).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(-10 * torch.log10(((one.float() - other.float()) / 255).square().mean()))


@pytest.mark.parametrize(
    ("spec", "least_side"),
    [
        (recipe(), 128),
        (recipe(resize_max=100), 200),
        (recipe(resize_max=32), 128),  # the clean view is never smaller than the image size
        (recipe(**CROPS | {"global_scale": (0.75, 1.0), "num_local_crops": 0}), 128),  # 48 of 0.75 of the short side
        (recipe(**CROPS | {"local_scale": (0.0075, 1.0)}), 427),  # 16 of 0.075 of the short side
        (recipe(**CROPS | {"local_scale": (0.0, 1.0)}), 32 * 1200),  # a box of one pixel
    ],
)
def test_the_least_side_is_twice_what_the_most_demanding_view_needs(spec, least_side):
    assert least_side_of_views(1200, 1200, spec) == least_side


@pytest.mark.parametrize(("height", "width"), [(1600, 1200), (1200, 1600), (900, 4000), (3000, 700)])
def test_no_box_has_less_than_twice_the_pixels_of_its_crop(height, width):
    spec = recipe(**CROPS)
    scale = least_side_of_views(height, width, spec) / min(height, width)
    random = np.random.default_rng(0)
    crops = spec.loss.self_distillation
    for size, shares in ((crops.global_size, crops.global_scale), (crops.local_size, crops.local_scale)):
        boxes = [draw_box(round(height * scale), round(width * scale), shares, random) for _ in range(5000)]
        least = min(min(box[2:]) for box in boxes)
        assert 2 * size - 1 <= least  # a box is of whole pixels


@pytest.mark.parametrize(
    ("spec", "scale"), [(recipe(), 4), (recipe(resize_max=128), 2), (recipe(resize_max=129), 1), (recipe(**CROPS), 2)]
)
def test_the_scale_is_the_smallest_that_serves_all_views(spec, scale):
    assert decode_for_views(jpeg(515, 690), spec).shape == (515 // scale, 690 // scale, 3)


def views_of(image: np.ndarray, spec: Recipe) -> Iterator[tuple[str, torch.Tensor]]:
    views: SampleViews = sample_views(image, spec, 3)
    return ((name, value) for name, value in vars(views).items() if name != "masks")


def test_views_show_what_those_of_the_full_image_show():
    data, spec = jpeg(1024, 1360), recipe(**CROPS)
    scaled, full = (dict(views_of(image, spec)) for image in (decode_for_views(data, spec), decode_image(data)))
    assert decode_for_views(data, spec).shape == (256, 340, 3)
    assert psnr(scaled["image"], full["image"]) > 40  # boxes are of whole pixels, and so are moved a little
    for name in ("global_crops", "local_crops"):
        assert psnr(scaled[name], full[name]) > 25


@pytest.fixture
def large() -> dict[str, bytes]:
    """Two large photographs, JPEG, by name."""
    return {f"{number}.jpg": jpeg(600, 800, first=number) for number in range(2)}


def test_batches_by_index_are_of_scaled_images(large, make_folder, tmp_path):
    source, spec = open_source(str(make_folder(large)), tmp_path / "index"), recipe()
    batch = TrainingViews(source, spec)[0]
    for slot, (sample, row) in enumerate(enumerate(TrainingViews(source, spec).rows(0))):
        data = source.read(row)
        assert torch.equal(batch.images[slot], sample_views(decode_for_views(data, spec), spec, sample).image)
        assert not torch.equal(batch.images[slot], sample_views(decode_image(data), spec, sample).image)


def test_streamed_batches_are_of_scaled_images(large, make_tar):
    spec, uri = recipe(shuffle_buffer=1), str(make_tar("s.tar", large))
    with closing(stream_training_batches(TrainingStream(Tars(uri, expand_tars(uri)), spec), 0)) as batches:
        batch = next(batches)
    for slot, sample in enumerate(batch.samples.tolist()):
        image = decode_for_views(list(large.values())[sample], spec)
        assert torch.equal(batch.images[slot], sample_views(image, spec, sample).image)
