"""Training from tables and compressed tars: each image comes once an epoch, for any readers, and a group is resumed."""

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tcae_cli.errors import SourceError
from tcae_cli.images.image_file import encode_image
from tcae_cli.recipe.schema import DataSpec, LossSpec, ModelSpec, Recipe, TrainSpec
from tcae_cli.sources.scan import open_source
from tcae_cli.training.views.crops import TrainingBatch
from tcae_cli.training.views.group_stream import RowGroups
from tcae_cli.training.views.stream import TrainingStream, stream_training_batches

from ...forms import Sample

SIZE = 32  # pixels
RECIPE = Recipe(
    model=ModelSpec(image_size=SIZE, latent_channels=8, width=32, depths=(1, 1), num_heads=2),
    data=DataSpec(resize_min=SIZE, resize_max=SIZE, shuffle_buffer=4),
    loss=LossSpec(perceptual=None),
    train=TrainSpec(steps=1, batch_size=2),
)


@pytest.fixture
def groups(tmp_path: Path) -> RowGroups:
    """Twenty grey images, each of its own grey, in row groups of six; one is no image."""
    images = [{"bytes": encode_image(np.full((SIZE, SIZE, 3), row, np.uint8), "png")} for row in range(20)]
    images[7]["bytes"] = b"oops"
    pq.write_table(pa.table({"image": images}), tmp_path / "greys.parquet", row_group_size=6)
    source = open_source(str(tmp_path / "greys.parquet"), tmp_path / "index")
    return RowGroups(source, tuple(source.groups()))


def greys(batches: list[TrainingBatch]) -> list[int]:
    return [grey for batch in batches for grey in batch.images[:, 0, 0, 0].tolist()]


def take(
    num_batches: int, files: RowGroups, recipe: Recipe = RECIPE, rank=0, world_size=1, workers=0, first_unit=0
) -> list[TrainingBatch]:
    stream = TrainingStream(files, recipe, rank, world_size)
    with closing(stream_training_batches(stream, workers, first_unit)) as batches:
        return list(islice(batches, num_batches))


@pytest.mark.parametrize("workers", [0, 2])
def test_each_image_comes_once_an_epoch_in_an_order_of_its_own(groups, workers):
    assert [len(group) for group in groups.groups] == [6, 6, 6, 2]
    seen = greys(take(19, groups, workers=workers))
    counts = Counter(seen)
    assert counts[7] == 0 and len(counts) == 19 and set(counts.values()) <= {1, 2, 3}
    if workers == 0:
        assert sorted(seen[:19]) == sorted(seen[19:]) == [grey for grey in range(20) if grey != 7]
        assert seen[:19] != seen[19:] != sorted(seen[19:])


def test_ranks_share_the_groups_of_an_epoch(groups):
    seen = [greys(take(5, groups, rank=rank, world_size=2)) for rank in (0, 1)]
    first_epoch = Counter([*seen[0], *seen[1]])
    assert set(first_epoch.values()) == {1} and len(first_epoch) == 10


def test_a_run_resumes_with_the_group_that_was_in_progress(groups):
    batches = take(8, groups)
    unit = batches[-1].first_unit
    assert 0 < unit < 4
    resumed = take(4, groups, first_unit=unit)
    assert all(sample >> 32 >= unit for batch in resumed for sample in batch.samples.tolist())


@pytest.fixture
def write_greys(write_source, put, tmp_path: Path) -> Callable[[str], str]:
    """Writes 24 grey images, four in each file of many, as a source of a form; gives its URI."""

    def write(form: str) -> str:
        images = [encode_image(np.full((SIZE, SIZE, 3), 10 * row, np.uint8), "png") for row in range(24)]
        samples = [Sample("cat", f"{row:02}.png", data) for row, data in enumerate(images)]
        parts = [samples[start : start + 4] for start in range(0, 24, 4)]
        if form != "s3":
            return write_source(form, *parts)
        write_source("parquet", *parts)
        return f"{put({path.name: path.read_bytes() for path in tmp_path.glob('source/*')})}/*.parquet"

    return write


@pytest.mark.parametrize("form", ["parquet", "s3", "hub", "tar.gz", "tar.zst"])
def test_a_resumed_stream_has_the_batches_that_it_would_have_had(form, write_greys, tmp_path):
    source = open_source(write_greys(form), tmp_path / "index")
    recipe = RECIPE.model_copy(update={"data": RECIPE.data.model_copy(update={"shuffle_buffer": 1})})
    whole = take(22, RowGroups(source, tuple(source.groups())), recipe)
    assert sorted(greys(whole[:12])) == [10 * row for row in range(24)]  # an epoch

    unit = whole[14].first_unit
    again = open_source(source.uri, tmp_path / "again")
    resumed = take(4, RowGroups(again, tuple(again.groups())), recipe, first_unit=unit)
    # What was in progress comes again.
    begun_at = next(number for number, batch in enumerate(whole) if batch.samples[0].item() >> 32 == unit)
    assert 12 < begun_at <= 14
    for batch, expected in zip(resumed, whole[begun_at:], strict=False):
        assert batch.images.equal(expected.images) and batch.samples.equal(expected.samples)
        assert batch.first_unit == expected.first_unit


def test_a_table_without_an_image_that_can_be_read_is_a_sentence(tmp_path):
    pq.write_table(pa.table({"image": [{"bytes": b"oops"}] * 4}), tmp_path / "bad.parquet", row_group_size=2)
    source = open_source(str(tmp_path / "bad.parquet"), tmp_path / "index")
    with pytest.raises(SourceError, match=r"bad\.parquet: there is no image that can be read in any of 2 row groups"):
        take(1, RowGroups(source, tuple(source.groups())))
