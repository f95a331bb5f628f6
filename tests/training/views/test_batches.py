"""Worker processes make the same training batches as this process, even if workers die or hang."""

import multiprocessing
import os
import re
import shutil
import signal
from multiprocessing.reduction import ForkingPickler
from select import PIPE_BUF

import pytest
import torch
from torch import Tensor

from tcae_cli.errors import SourceError
from tcae_cli.images import watchdog
from tcae_cli.images.watchdog import RowNotes
from tcae_cli.recipe.schema import Recipe
from tcae_cli.sources.scan import open_source
from tcae_cli.training.views.batches import TrainingViews, load_training_batches
from tcae_cli.training.views.crops import TrainingBatch

from ...troubles import TroubledSource, die, die_at_once, die_once, no_room, stop

pytestmark = pytest.mark.usefixtures("soon")

STEPS = range(2, 7)
CULPRIT = 4


def recipe(**train) -> Recipe:
    crops = {"global_size": 48, "local_size": 16, "num_local_crops": 2}
    return Recipe(
        model={"preset": "tiny", "image_size": 64, "patch_size": 8},
        data={"resize_min": 64, "resize_max": 80},
        loss={"self_distillation": crops},
        train={"steps": 10, "batch_size": 6, **train},
    )


@pytest.fixture
def views(photos, tmp_path):
    """Return a maker of the views of 24 photographs, with trouble in them."""
    open_source(str(photos), tmp_path / "index")
    return lambda trouble=None, opened=None: TrainingViews(
        TroubledSource(tmp_path / "index", {CULPRIT: trouble} if trouble else {}, opened), recipe()
    )


def assert_same(ours: list[TrainingBatch], theirs: list[TrainingBatch]) -> None:
    assert len(ours) == len(theirs) > 0
    for batch, right in zip(ours, theirs, strict=True):
        for name, value in vars(right).items():
            other = getattr(batch, name)
            assert torch.equal(other, value) if isinstance(value, Tensor) else other == value, name


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_make_the_batches_of_the_run_in_order_and_are_gone_afterwards(views, num_workers):
    here, there = views(), list(load_training_batches(views(), STEPS, num_workers))
    assert_same(there, [here[step] for step in STEPS])
    assert_same(list(load_training_batches(views(), STEPS, 0)), there)
    assert multiprocessing.active_children() == []


def test_workers_are_gone_when_the_batches_are_closed_early(views):
    batches = load_training_batches(views(), range(100), num_workers=2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []


def test_workers_draw_nothing_from_the_random_numbers_of_the_run(views):
    before = torch.get_rng_state()
    list(load_training_batches(views(), range(1), num_workers=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_delivered", [1, 3])
def test_workers_killed_with_kill_9_cost_nothing(views, num_delivered):
    batches = load_training_batches(views(), STEPS, num_workers=2)
    first = [next(batches) for _ in range(num_delivered)]
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGKILL)
    assert_same([*first, *batches], list(map(views().__getitem__, STEPS)))


def test_an_image_that_kills_its_worker_once_costs_nothing(views):
    batches = list(load_training_batches(views(die_once), STEPS, num_workers=1))
    assert_same(batches, list(map(views().__getitem__, STEPS)))


@pytest.mark.parametrize("trouble", [die, stop])
def test_an_image_that_kills_or_stops_its_worker_twice_is_counted_like_a_bad_one(views, monkeypatch, trouble):
    monkeypatch.setattr(watchdog, "HUNG_AFTER_S", 5.0)
    batches = list(load_training_batches(views(trouble), STEPS, num_workers=2))
    without = TrainingViews(views().source, recipe(), given_up=frozenset([CULPRIT]))
    assert_same(batches, [without[step] for step in STEPS])
    assert sum(batch.num_failed for batch in batches) > 0 == sum(views()[step].num_failed for step in STEPS)


def test_workers_that_die_before_any_image_end_the_run_in_one_sentence(views):
    with pytest.raises(SourceError) as raised:
        list(load_training_batches(views(opened=die_at_once), STEPS, num_workers=2))
    assert re.fullmatch(
        r".*: a decoding process was killed \(was killed by SIGKILL, 3 times running\); try fewer --workers",
        str(raised.value),
    )


def test_full_shared_memory_ends_the_run_in_one_sentence(views):
    with pytest.raises(
        SourceError, match=r"do not fit into shared memory \(/dev/shm\); .* try fewer --workers, down to 0"
    ):
        list(load_training_batches(views(opened=no_room), STEPS, num_workers=1))


def test_images_of_which_none_can_be_read_end_the_run_in_one_sentence(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    for path in (tmp_path / "photos").rglob("*.jpg"):
        path.write_bytes(b"no image")
    source = open_source(str(tmp_path / "photos"), tmp_path / "index")
    with pytest.raises(SourceError) as raised:
        list(load_training_batches(TrainingViews(source, recipe()), STEPS, num_workers=1))
    assert re.fullmatch(r".*/photos: 20 images one after another cannot be read, .*", str(raised.value))


def test_a_batch_from_a_worker_is_one_write_into_the_pipe(views):
    batch = TrainingViews(views().source, recipe(), notes=RowNotes(1))[0]
    assert len(ForkingPickler.dumps(batch)) < PIPE_BUF  # the rest of a longer one would be waited for
