"""Launches of `tcae encode-dataset` beside each other, ranks without a leader, and images that change after a kill."""

import shutil
import signal

import numpy as np
import pytest
import zarr

from ..store_contents import assert_same_store
from .steps import FRESH, RETRY, Kill

OK, FAILED = 1, 2
IN_USE, LEADERLESS = "is being written by process", "rank 0 has stopped"


@pytest.mark.parametrize("nums_ranks", [(1, 1), (1, 1, 1), (2, 2)])
def test_of_launches_that_begin_at_the_same_moment_one_works(
    scenarios, driver, request_of, sources, tmp_path, nums_ranks
):
    request = request_of(sources / "broken", tmp_path / "store.zarr")
    outcome = driver.launch_together(request, *nums_ranks)

    assert all(IN_USE in sentence or LEADERLESS in sentence for sentence in outcome.sentences), outcome
    assert sum(IN_USE in sentence for sentence in outcome.sentences) >= len(nums_ranks) - 1
    if max(nums_ranks) == 1:
        assert outcome.exits.count(0) == 1
    assert driver.launch(request, 1).exits == [0]
    assert_same_store(tmp_path / "store.zarr", scenarios[FRESH].reference.path)


def test_ranks_whose_leader_was_killed_before_it_was_ready_stop_by_themselves(driver, request_of, sources, tmp_path):
    request = request_of(sources / "broken", tmp_path / "store.zarr")
    outcome = driver.launch(request, 3, Kill("root created", "after"), indexes_apart=True)

    assert outcome.exits == [-signal.SIGKILL, 1, 1]
    assert all(LEADERLESS in sentence for sentence in outcome.sentences), outcome
    assert len(outcome.sentences) == 2


@pytest.mark.parametrize("scenario", [FRESH, RETRY])
def test_a_row_whose_image_breaks_after_a_kill_is_not_ok_while_its_shard_is_written_again(
    scenarios, driver, request_of, tmp_path, scenario
):
    attacked, store = scenarios[scenario], tmp_path / "store.zarr"
    row = 27 if scenario == FRESH else 26  # of the second shard; 26 is tried again
    source = shutil.copytree(attacked.source, tmp_path / "photos")
    if attacked.base:
        shutil.copytree(attacked.base, store)
    request = request_of(source, store, **attacked.options)
    assert driver.launch(request, 1, Kill("status written", "after", nth=2)).exits == [-signal.SIGKILL]
    root = zarr.open_group(store, mode="r")
    assert root["status"][row] == OK and np.isfinite(root["latents"][row]).all()

    image = source / str(root["keys"][:][row])
    image.write_bytes(bytes(image.stat().st_size))  # as large as before: it is the same image to the index
    nth = 1 if scenario == FRESH else 2
    killed = driver.launch(request, 1, Kill("latents published", "after", nth=nth))
    assert killed.exits == [-signal.SIGKILL]
    root = zarr.open_group(store, mode="r")
    assert np.isnan(root["latents"][row]).all() and root["status"][row] != OK

    assert driver.launch(request, 1).exits == [0]
    assert zarr.open_group(store, mode="r")["status"][row] == FAILED
