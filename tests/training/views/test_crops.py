"""The views of a sample and the batches of a step depend on seed and sample alone, whatever process makes them."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tcae_cli.errors import SourceError
from tcae_cli.images.image_file import decode_image
from tcae_cli.recipe.schema import Recipe
from tcae_cli.sources.scan import open_source
from tcae_cli.sources.source import Source
from tcae_cli.training.views import batches
from tcae_cli.training.views.batches import TrainingViews
from tcae_cli.training.views.crops import SampleViews, TrainingBatch, sample_views, stack_views

CROPS = {"global_size": 48, "local_size": 16, "num_local_crops": 3}
TENSORS = ("samples", "images", "global_crops", "local_crops", "masks")


def recipe(loss: dict | None = None, **train) -> Recipe:
    model = {"preset": "tiny", "image_size": 64, "patch_size": 8}
    data = {"resize_min": 64, "resize_max": 80}
    loss = {"self_distillation": CROPS} if loss is None else loss
    return Recipe(model=model, data=data, loss=loss, train={"steps": 1, "batch_size": 8, **train})


@pytest.fixture(scope="module")
def source(photos, tmp_path_factory) -> Source:
    return open_source(str(photos), tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def photograph(photos) -> np.ndarray:
    return decode_image((photos / "animal" / "0.jpg").read_bytes())


@pytest.fixture
def damaged(photos, tmp_path) -> Source:
    """The photographs, a third of which are damaged."""
    shutil.copytree(photos, tmp_path / "photos")
    for path in (tmp_path / "photos" / "person").iterdir():
        path.write_bytes(b"no image")
    return open_source(str(tmp_path / "photos"), tmp_path / "index")


def assert_equal(ours: SampleViews | TrainingBatch, theirs: SampleViews | TrainingBatch) -> None:
    for name, value in vars(ours).items():
        other = getattr(theirs, name)
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other, name


def rows_of(views: TrainingViews, steps: range) -> list[int]:
    return [row for step in steps for row in views.rows(step)]


def test_views_have_the_shapes_of_the_recipe(photograph):
    views = sample_views(photograph, recipe(), 0)
    assert {name: (tuple(value.shape), value.dtype) for name, value in vars(views).items()} == {
        "image": ((3, 64, 64), torch.uint8),
        "global_crops": ((2, 3, 48, 48), torch.uint8),
        "local_crops": ((3, 3, 16, 16), torch.uint8),
        "masks": ((2, 3, 3), torch.bool),
    }


def test_without_self_distillation_there_is_the_same_clean_view_alone(photograph):
    plain = sample_views(photograph, recipe(loss={}), 5)
    assert plain.global_crops is None and plain.local_crops is None and plain.masks is None
    assert torch.equal(plain.image, sample_views(photograph, recipe(), 5).image)


def test_without_local_crops_there_are_none(photograph):
    views = sample_views(photograph, recipe(loss={"self_distillation": {**CROPS, "num_local_crops": 0}}), 0)
    assert views.local_crops is None and views.masks is not None
    assert stack_views([0], [views], 0).local_crops is None


def test_views_are_drawn_from_seed_and_sample_alone(photograph):
    first = sample_views(photograph, recipe(), 3)
    assert_equal(first, sample_views(photograph, recipe(steps=9, batch_size=2), 3))
    for other in (sample_views(photograph, recipe(), 4), sample_views(photograph, recipe(seed=1), 3)):
        assert not torch.equal(first.image, other.image) and not torch.equal(first.global_crops, other.global_crops)


def test_crops_of_a_sample_are_all_different(photograph):
    views = sample_views(photograph, recipe(), 3)
    for several in (views.global_crops, views.local_crops):
        assert len({crop.numpy().tobytes() for crop in several}) == len(several)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (5, 2000)])
def test_an_image_of_any_shape_gives_views(size):
    views = sample_views(np.full((*size, 3), 99, np.uint8), recipe(), 0)
    assert views.image.shape == (3, 64, 64) and (views.image == 99).all()


def test_a_batch_holds_its_samples_in_order(source):
    batch = TrainingViews(source, recipe())[2]
    assert batch.samples.tolist() == list(range(16, 24)) and batch.num_failed == 0 and batch.first_unit is None
    for slot, row in enumerate(TrainingViews(source, recipe()).rows(2)):
        views = sample_views(decode_image(source.read(row)), recipe(), 16 + slot)
        assert torch.equal(batch.images[slot], views.image) and torch.equal(batch.masks[slot], views.masks)
        assert torch.equal(batch.global_crops[slot], views.global_crops)
        assert torch.equal(batch.local_crops[slot], views.local_crops)


def test_stacked_views_keep_what_a_stream_tells(photograph):
    views = [sample_views(photograph, recipe(), sample) for sample in (7, 1 << 40)]
    batch = stack_views([7, 1 << 40], views, num_failed=2, first_unit=5)
    assert batch.samples.tolist() == [7, 1 << 40] and batch.num_failed == 2 and batch.first_unit == 5


@pytest.mark.parametrize("seed", [0, 1])
def test_each_epoch_shows_each_row_once_and_in_another_order(source, seed):
    assert len(source) == 24
    views = TrainingViews(source, recipe(seed=seed))
    epochs = [rows_of(views, range(start, start + 3)) for start in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3


def test_epochs_that_end_within_a_batch_show_each_row_once_too(source):
    rows = rows_of(TrainingViews(source, recipe(batch_size=10)), range(12))
    for epoch in range(5):
        assert sorted(rows[24 * epoch : 24 * (epoch + 1)]) == list(range(24))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_the_micro_batches_of_one(damaged, world_size, accumulate):
    spec = recipe(accumulate=accumulate)
    whole = TrainingViews(damaged, spec)[1]
    shares = [TrainingViews(damaged, spec, rank, world_size)[1] for rank in range(world_size)]
    assert {len(share.samples) for share in shares} == {8 // world_size}
    for name in TENSORS:
        # [rank, micro-batch, share of it, ...] to the order of one rank: sample i is rank i % world_size's.
        values = torch.stack([getattr(share, name).unflatten(0, (accumulate, -1)) for share in shares], 2)
        assert torch.equal(values.flatten(0, 2), getattr(whole, name)), name
    assert sum(share.num_failed for share in shares) == whole.num_failed > 0


@pytest.mark.parametrize("num_local_crops", [0, 3])
def test_an_image_is_read_and_decoded_once_for_all_its_views(source, monkeypatch, num_local_crops):
    decoded = Counter()
    decode = batches.decode_for_views
    monkeypatch.setattr(batches, "decode_for_views", lambda data, spec: decoded.update([data]) or decode(data, spec))
    loss = {"self_distillation": {**CROPS, "num_local_crops": num_local_crops}}
    reads = Counter()
    monkeypatch.setattr(Source, "_read", lambda self, row, read=Source._read: reads.update([row]) or read(self, row))
    views = TrainingViews(source, recipe(loss=loss))
    for step in range(3):
        views[step]
    assert sorted(decoded.values()) == sorted(reads.values()) == [1] * 24


def test_an_image_that_cannot_be_read_is_counted_and_another_takes_its_place(damaged, source):
    spec, bad = recipe(), {row for row in range(24) if damaged.key(row).startswith("person")}
    assert len(bad) == 8
    num_failed = 0
    for step in range(6):
        batch, rows = TrainingViews(damaged, spec)[step], TrainingViews(damaged, spec).rows(step)
        assert len(batch.samples) == len(batch.images) == 8
        whole = TrainingViews(source, spec)[step]
        assert [torch.equal(ours, theirs) for ours, theirs in zip(batch.images, whole.images, strict=True)] == [
            row not in bad for row in rows
        ]
        assert batch.num_failed >= sum(row in bad for row in rows)  # its substitute may be another one
        num_failed += batch.num_failed
    assert 16 < num_failed < 48


def test_an_image_that_went_away_is_counted_too(damaged):
    for path in (Path(damaged.uri) / "thing").iterdir():
        path.unlink()
    batch = TrainingViews(damaged, recipe())[0]
    assert len(batch.samples) == 8 and batch.num_failed > 0


def test_a_row_given_up_is_not_read_and_counts_as_one_that_cannot_be_read(source, monkeypatch):
    row = TrainingViews(source, recipe()).rows(0)[3]
    views = TrainingViews(source, recipe(), given_up=frozenset([row]))
    monkeypatch.setattr(
        Source, "_read", lambda self, asked, read=Source._read: read(self, asked) if asked != row else 1 / 0
    )
    batch, whole = views[0], TrainingViews(source, recipe(), given_up=frozenset([row, 99]))[0]
    assert batch.num_failed >= 1 and len(batch.samples) == 8
    assert_equal(batch, whole)


def test_a_source_of_which_nothing_can_be_read_ends_the_run_in_one_sentence(damaged):
    for path in Path(damaged.uri).rglob("*.jpg"):
        path.write_bytes(b"no image")
    with pytest.raises(SourceError) as raised:
        TrainingViews(damaged, recipe())[0]
    assert str(raised.value).startswith(f"{damaged.uri}: 20 images one after another cannot be read, the last of them ")
    assert str(raised.value).endswith(".jpg; repair such images or remove them from the source")
