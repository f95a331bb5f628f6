"""The shapes of buckets, and the one that an image goes to."""

import math

import numpy as np
import pytest

from tcae_cli.errors import UsageError
from tcae_cli.images.buckets import bucket_shapes, nearest_bucket


def plain_bucket(height: int, width: int, size: int, step: int, max_aspect: float) -> tuple[int, int]:
    shapes = []
    for w in range(size // step * step, 4 * size * size, step):
        h = max((h for h in range(step, min(w, size * size // w) + 1, step)), default=None)
        if h and w / h <= max_aspect:
            shapes += [(h, w), (w, h)]
    distance = {(h, w): round(abs(math.log(height / width) - math.log(h / w)), 9) for h, w in shapes}
    return min(shapes, key=lambda shape: (distance[shape], abs(math.log(shape[0] / shape[1]))))


@pytest.mark.parametrize(("size", "step", "max_aspect"), [(16, 4, 2.0), (32, 8, 3.0), (24, 4, 1.0), (20, 8, 2.5)])
def test_an_image_goes_to_the_bucket_that_a_plain_reference_says(size: int, step: int, max_aspect: float):
    random = np.random.default_rng(0)
    images = np.array([*random.integers(1, 3000, (40, 2)), (1, 5000), (5000, 1), (8, 8)], np.int32)
    shapes = bucket_shapes(size, step, max_aspect)
    found = [shapes[number] for number in nearest_bucket(images, shapes)]
    assert found == [plain_bucket(h, w, size, step, max_aspect) for h, w in images.tolist()]


def test_the_shapes_of_a_usual_setting():
    assert bucket_shapes(512, 64, 2.0) == [(384, 640), (448, 576), (512, 512), (576, 448), (640, 384)]


@pytest.mark.parametrize(
    ("size", "step", "max_aspect"), [(1024, 64, 2.0), (768, 64, 2.0), (512, 32, 3.0), (100, 64, 1)]
)
def test_every_shape_is_there_upright_and_on_its_side(size: int, step: int, max_aspect: float):
    shapes = bucket_shapes(size, step, max_aspect)
    assert {(width, height) for height, width in shapes} == set(shapes) and len(set(shapes)) == len(shapes)
    assert all(h % step == w % step == 0 and h * w <= size**2 for h, w in shapes)
    assert [shape for shape in shapes if shape[0] == shape[1]] == [(size // step * step,) * 2]


def test_of_two_shapes_as_near_an_image_goes_to_the_squarer():
    shapes = [(1, 4), (2, 2), (4, 1)]
    assert nearest_bucket(np.array([[1, 2], [2, 1]], np.int32), shapes).tolist() == [1, 1]


def test_an_image_of_unknown_size_goes_to_the_squarest():
    assert nearest_bucket(np.zeros((1, 2), np.int32), [(1, 2), (2, 2), (2, 1)]).tolist() == [1]


def test_a_step_larger_than_the_size_is_refused():
    with pytest.raises(UsageError, match="--bucket-step 64 is more than --size 32; give a smaller step"):
        bucket_shapes(32, 64, 2.0)
