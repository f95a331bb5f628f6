"""Whether training waits for its views: two workers, and a trainer as slow as one core is to make a batch."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from statistics import median

import pytest
import torch

from tcae_cli.recipe.schema import Recipe
from tcae_cli.sources.scan import open_source
from tcae_cli.training.views.batches import TrainingViews, load_training_batches

STEPS, STEPS_ALONE = 40, 10
RECIPES = {
    "reconstruction": Recipe(train={"steps": STEPS, "batch_size": 64}),
    "2 x 224 + 8 x 96 crops": Recipe(train={"steps": STEPS, "batch_size": 16}, loss={"self_distillation": {}}),
}


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def seconds_to_make_a_batch(views: TrainingViews) -> float:
    """In this process, alone."""
    times = []
    with one_thread():
        for step in range(STEPS_ALONE):
            started = time.perf_counter()
            views[step]
            times.append(time.perf_counter() - started)
    return median(times)


def waiting_share(views: TrainingViews, step_s: float) -> float:
    """Of the time of a trainer whose steps take so long, from the first batch on."""
    waited = 0.0
    with closing(load_training_batches(views, range(STEPS), num_workers=2)) as batches:
        next(batches)
        for _ in range(STEPS - 1):
            time.sleep(step_s)
            started = time.perf_counter()
            next(batches)
            waited += time.perf_counter() - started
    return waited / (waited + (STEPS - 1) * step_s)


@pytest.mark.parametrize("name", RECIPES)
def test_a_trainer_as_slow_as_one_worker_hardly_waits(images, tmp_path, show, name):
    source, recipe = open_source(str(images), tmp_path / "index"), RECIPES[name]
    views = TrainingViews(source, recipe)
    batch_s = seconds_to_make_a_batch(views)
    share = waiting_share(views, batch_s)

    show(f"{name}: {recipe.train.batch_size / batch_s:.0f} images/s a core; the trainer waits {share:.1%} of its time")
    assert share < 0.10
