"""kill -9 of `tcae encode-dataset --buckets`, by one process and by three; `make stress` kills ten times each."""

import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ..forked import Run
from ..store_contents import assert_same_store

IN_FULL = bool(os.environ.get("STRESS"))
SETTING = {"sizes": (128,), "buckets": True, "bucket_step": 32, "batch_size": 4}
OPTIONS = ["--size", "128", "--buckets", "--bucket-step", "32", "--batch-size", "4"]
NUM_COPIES = 6 if IN_FULL else 2  # of 48 photographs, for more shards than kills


@pytest.fixture(scope="module")
def many_shapes(shaped_photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("many-shapes")
    for copy in range(NUM_COPIES):
        shutil.copytree(shaped_photos, folder / str(copy), copy_function=os.link)
    return folder


@pytest.mark.parametrize(("num_ranks", "num_kills"), [(1, 10), (3, 10)] if IN_FULL else [(1, 2), (3, 1)])
def test_a_store_of_buckets_killed_again_and_again_equals_one_that_was_not(
    many_shapes, encode, start_tcae: Callable[..., Run], tmp_path, num_ranks, num_kills
):
    draw, store = random.Random(num_ranks), tmp_path / "killed.zarr"

    def launch(name: str) -> list[Run]:
        environment = {"WORLD_SIZE": str(num_ranks), "TORCHELASTIC_RUN_ID": name}
        ranks = [environment | {"RANK": rank, "LOCAL_RANK": rank} for rank in map(str, range(num_ranks))]
        return [start_tcae(many_shapes, store, *OPTIONS, environment=rank) for rank in ranks]

    for kill in range(num_kills):
        ranks = launch(f"killed-{kill}")
        wait_for_records(store, kill + 1, ranks)
        time.sleep(draw.uniform(0, 0.1))
        for rank in ranks:
            rank.kill()
        for rank in ranks:
            rank.communicate()
    for rank in launch("last"):
        _, stderr = rank.communicate(timeout=240)
        assert rank.returncode == 0, stderr
    encode(many_shapes, tmp_path / "whole.zarr", **SETTING)
    assert_same_store(store, tmp_path / "whole.zarr")


def wait_for_records(store: Path, count: int, ranks: Sequence[Run]) -> None:
    """Wait until so many shards of any bucket are committed, by ranks that run."""
    while len(list(store.glob("buckets/*/.tcae/commits/*.json"))) < count:
        assert all(rank.poll() is None for rank in ranks)
        time.sleep(0.01)
