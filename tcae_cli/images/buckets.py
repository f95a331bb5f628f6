"""Chooses the bucket of each image: the shape it is cropped to, of about its own aspect.

Axes: n images.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tcae_cli.errors import ImageError, UsageError
from tcae_cli.images.transform import Transform
from tcae_cli.sources.source import Source
from tcae_cli.store.bucket_spec import bucket_name, bucket_shape
from tcae_cli.store.spec import StoreSpec

_TIE = 1e-9  # of log aspects


def bucket_shapes(size: int, step: int, max_aspect: float) -> list[tuple[int, int]]:
    """Return the height and width of every bucket, in pixels, by height and then by width.

    For each longer side, a multiple of the step, the shorter is the largest multiple with which an image has at most
    size x size pixels. The longer side is at most max_aspect times the shorter, and every shape is there upright too.
    Raises UsageError if not even a square of one step fits.
    """
    if step > size:
        raise UsageError(f"--bucket-step {step} is more than --size {size}; give a smaller step")
    longer_sides = range(step, int(size * max_aspect) + 1, step)
    pairs = {(min(side, size * size // side // step * step), side) for side in longer_sides}
    square = max(shorter for shorter, longer in pairs if shorter == longer)
    wide = {(shorter, longer) for shorter, longer in pairs if longer <= max_aspect * shorter and longer >= square}
    return sorted(wide | {(longer, shorter) for shorter, longer in wide})


def nearest_bucket(image_sizes: np.ndarray, shapes: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the number of each image's shape, [n], int64: the one of the nearest log aspect, of two the squarer.

    image_sizes: [n, 2], height and width; an image of unknown size, 0, goes to the squarest shape.
    """
    order = sorted(range(len(shapes)), key=lambda number: abs(np.log(shapes[number][0] / shapes[number][1])))
    aspects = np.log([shapes[number][0] / shapes[number][1] for number in order])
    sizes = np.where(image_sizes > 0, image_sizes, 1).astype(np.float64)
    of_images = np.log(sizes[:, 0] / sizes[:, 1])

    nearest, best = np.zeros(len(sizes), np.int64), np.full(len(sizes), np.inf)
    for number, aspect in zip(order, aspects, strict=True):  # a squarer one stays
        distance = np.abs(of_images - aspect)
        is_nearer = distance < best - _TIE
        nearest[is_nearer], best[is_nearer] = number, distance[is_nearer]
    return nearest


def refuse_another_bucket(listed: tuple[int, int], found: tuple[int, int], shapes: Sequence[tuple[int, int]]) -> None:
    """Raise ImageError if an image turns out to be of another bucket than the size its header was listed with.

    An image that was listed with no size, 0, may be of any.
    """
    if listed == found or not min(listed):
        return
    of_listed, of_found = nearest_bucket(np.array([listed, found]), shapes)
    if of_listed != of_found:
        raise ImageError(
            "decode",
            f"the image is {found[0]} x {found[1]} pixels, and was {listed[0]} x {listed[1]} when it was listed, which "
            f"decided its bucket, {bucket_name(shapes[of_listed])}; put it back, or encode into another store",
        )


def shapes_of(spec: StoreSpec) -> list[tuple[int, int]]:
    """Return the height and width of every bucket that a store of buckets may have, in pixels."""
    assert spec.buckets
    return bucket_shapes(spec.sizes[0], spec.buckets.step, spec.buckets.max_aspect)


def rows_of_stores(source: Source, spec: StoreSpec) -> dict[str, Sequence[int]]:
    """Return the samples that become the rows of each bucket of a store, ascending, by the bucket's name.

    Those of a store without buckets are all samples, by the name "". Buckets are in the order of their heights and
    widths; those that no sample is in are left out.
    """
    if spec.buckets is None:
        return {"": range(len(source))}
    assert source.image_sizes is not None
    shapes = shapes_of(spec)
    numbers = nearest_bucket(source.image_sizes, shapes)
    found = {bucket_name(shape): np.flatnonzero(numbers == number).tolist() for number, shape in enumerate(shapes)}
    return {name: samples for name, samples in found.items() if samples}


def transforms_of_stores(spec: StoreSpec) -> dict[str, Transform]:
    """Return the transform of each bucket of a store, by its name; that of a store without buckets by the name ""."""
    transform = Transform.of_store(spec)
    if spec.buckets is None:
        return {"": transform}
    buckets = tuple(shapes_of(spec))
    return {name: replace(transform, shapes=(bucket_shape(name),), buckets=buckets) for name in spec.buckets.names}
