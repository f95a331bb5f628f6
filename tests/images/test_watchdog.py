"""Workers that die or hang: each costs the row that it was on, once that has happened twice, and nothing else."""

import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tcae_cli.errors import SourceError
from tcae_cli.images import batch as image_batch
from tcae_cli.images import watchdog
from tcae_cli.images.loader import BatchRows, ImageBatch, Reading, load_batches
from tcae_cli.images.transform import Transform
from tcae_cli.reports.failure import Failure
from tcae_cli.sources.scan import open_source
from tcae_cli.sources.source import Source

from ..troubles import TroubledSource, die, die_at_once, die_once, no_room, stop

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("soon")]

BATCHES = [BatchRows(range(0, 3)), BatchRows(range(3, 6)), BatchRows(range(6, 9)), BatchRows(range(9, 10))]
KILLED = "the decoding process was killed by SIGKILL on it, twice"
HUNG = "the decoding process hung on it for more than 1.2 s, twice"


def die_then_stop(folder: Path) -> None:
    die_once(folder)
    stop(folder)


def die_decoding(folder: Path) -> None:
    image_batch.decode_scaled = lambda data, least: die(folder)  # type: ignore[assignment]  # in the worker alone


def leave(_: Path) -> None:
    os._exit(7)


def sleep(_: Path) -> None:
    time.sleep(1000)


@pytest.fixture
def trouble(make_folder, png, tmp_path):
    """Makes a source of ten images, some of which are trouble."""
    folder = make_folder({f"{row}.png": png(40 + row, 60, seed=row) for row in range(10)})
    open_source(str(folder), tmp_path / "index")
    return lambda troubles, opened=None: TroubledSource(tmp_path / "index", troubles, opened)


@pytest.fixture
def impatient(monkeypatch):
    """What takes half a minute takes a second."""
    monkeypatch.setattr(watchdog, "HUNG_AFTER_S", 1.2)


def start(source: Source, num_workers: int, batches: Sequence[BatchRows] = BATCHES):
    return load_batches(source, batches, Transform.square(32, "torch"), Reading(3, num_workers))


def assert_only_these_failed(batches: Sequence[ImageBatch], failures: dict[int, tuple[str, str]], clean: Source):
    """The batches are those of a source without trouble, but for the rows that failed."""
    expected = list(start(clean, num_workers=0))
    assert [batch.rows for batch in batches] == [batch.rows for batch in expected]
    found = {row: failure for batch in batches for row, failure in batch.failures.items()}
    assert {row: (failure.stage, failure.error) for row, failure in found.items()} == failures
    assert all((failure.row, failure.path) == (row, clean.key(row)) for row, failure in found.items())
    for batch, right in zip(batches, expected, strict=True):
        assert batch.todo == right.todo
        for slot, row in enumerate(batch.rows):
            if row in failures:
                assert not batch.images[0][slot].any() and not batch.crops[0][slot].any()
            else:
                assert torch.equal(batch.images[0][slot], right.images[0][slot])
                assert np.array_equal(batch.crops[0][slot], right.crops[0][slot])
                assert batch.content_hashes[slot] == right.content_hashes[slot] != 0


def test_an_image_that_kills_its_worker_costs_its_row_and_is_named(trouble):
    batches = list(start(trouble({4: die}), num_workers=2))
    assert_only_these_failed(batches, {4: ("read", KILLED)}, trouble({}))


def test_a_death_while_decoding_is_told_from_one_while_reading(trouble):
    batches = list(start(trouble({4: die_decoding}), num_workers=1))
    assert_only_these_failed(batches, {4: ("decode", KILLED)}, trouble({}))


def test_a_worker_that_leaves_is_named_with_its_exit_code(trouble):
    batches = list(start(trouble({4: leave}), num_workers=1))
    failure = "the decoding process ended with exit code 7 on it, twice"
    assert_only_these_failed(batches, {4: ("read", failure)}, trouble({}))


def test_two_culprits_in_one_batch_cost_two_rows(trouble):
    batches = list(start(trouble({3: die, 5: die}), num_workers=2))
    assert_only_these_failed(batches, {3: ("read", KILLED), 5: ("read", KILLED)}, trouble({}))


def test_culprits_in_the_first_and_the_last_batch_cost_their_rows(trouble):
    batches = list(start(trouble({0: die, 9: die}), num_workers=2))
    assert_only_these_failed(batches, {0: ("read", KILLED), 9: ("read", KILLED)}, trouble({}))


@pytest.mark.parametrize("hang", [sleep, stop])
def test_an_image_on_which_a_worker_hangs_costs_its_row_and_is_named(trouble, impatient, hang):
    batches = list(start(trouble({4: hang}), num_workers=2))
    assert_only_these_failed(batches, {4: ("read", HUNG)}, trouble({}))


def test_a_hung_worker_is_ended_while_the_consumer_is_busy(trouble, impatient):
    batches = start(trouble({4: sleep}), num_workers=1)
    first = next(batches)
    (worker,) = multiprocessing.active_children()
    worker.join(10)
    assert worker.exitcode == -signal.SIGKILL
    assert_only_these_failed([first, *batches], {4: ("read", HUNG)}, trouble({}))


def test_a_worker_killed_once_costs_nothing(trouble):
    assert_only_these_failed(list(start(trouble({4: die_once}), num_workers=2)), {}, trouble({}))


def test_two_fates_on_one_row_are_both_told(trouble, impatient):
    batches = list(start(trouble({4: die_then_stop}), num_workers=1))
    fates = "was killed by SIGKILL on it, then hung on it for more than 1.2 s"
    assert_only_these_failed(batches, {4: ("read", f"the decoding process {fates}")}, trouble({}))


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP])
def test_workers_killed_or_stopped_between_two_rows_cost_nothing(trouble, impatient, signal_number):
    # Batches lie ready in shared memory: to take one, the parent has to speak to a worker that does not answer.
    batches = start(trouble({}), num_workers=2)
    first = next(batches)
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal_number)
    assert_only_these_failed([first, *batches], {}, trouble({}))


def test_a_slow_consumer_is_no_hang(trouble, impatient):
    workers, received = set(), []
    for batch in start(trouble({}), num_workers=1):
        received.append(batch)
        workers |= {worker.pid for worker in multiprocessing.active_children()}
        time.sleep(0.7)
    assert len(workers) == 1
    assert_only_these_failed(received, {}, trouble({}))


def test_a_culprit_beside_a_row_not_asked_for_costs_its_row(trouble):
    holes = [BatchRows(range(3, 6), (3, 4))]
    (batch,) = start(trouble({4: die}), num_workers=1, batches=holes)
    assert batch.failures == {4: Failure(4, trouble({}).key(4), "read", KILLED)} and batch.todo == [3, 4]
    assert batch.images[0][0].any() and not batch.images[0][2].any()


def test_workers_that_die_before_any_row_end_the_run_in_one_sentence(trouble):
    with pytest.raises(SourceError) as raised:
        list(start(trouble({}, die_at_once), num_workers=2))
    assert re.fullmatch(
        r".*/photos: a decoding process was killed \(was killed by SIGKILL, 3 times running\); try fewer --workers",
        str(raised.value),
    )


def test_full_shared_memory_ends_the_run_in_one_sentence(trouble):
    with pytest.raises(
        SourceError, match=r"do not fit into shared memory \(/dev/shm\); .* try fewer --workers, down to 0"
    ):
        list(start(trouble({}, no_room), num_workers=1))


def test_ctrl_c_is_heard_while_a_worker_hangs(trouble):
    batches = start(trouble({1: stop}), num_workers=2)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        next(batches)
