"""kill -9 at any instant of `tcae encode-dataset`; `make stress` kills more often, and at instants drawn anew."""

import os
import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from .attack import Attack, Hits
from .steps import APPEND, FRESH, KILL_BEFORE, RETRY, SCENARIOS_OF_STEP, STEPS

IN_FULL = bool(os.environ.get("STRESS"))
SEED = int(os.environ.get("SEED", random.SystemRandom().randrange(10**6) if IN_FULL else 1))
HITS_WANTED, MOST_ROUNDS = 3, 6
NUM_AT_A_TIME = 30 if IN_FULL else 2
NUM_REAL = 2  # at least, in each scenario
KILLS_OF_A_STORE = 3

Target = tuple[str, str]  # a step, and "before" or "after" it
SOME = [(step, ("before", "after")[number % 2]) for number, step in enumerate(STEPS) if number % 3 == 1]
ALL = [(step, when) for step in STEPS for when in ("before", "after")]


@pytest.fixture(scope="module")
def hits() -> Hits:
    """What all the tests here have hit."""
    return Hits()


@pytest.fixture
def start(scenarios, driver, request_of, tmp_path, hits) -> Callable[[str, random.Random], Attack]:
    """Begins an attack on a new store in a scenario."""
    numbers = iter(range(10**6))

    def begin(name: str, draw: random.Random) -> Attack:
        return Attack(scenarios[name], tmp_path / f"{next(numbers)}.zarr", driver, request_of, draw, hits)

    return begin


def by_store(targets: Sequence[Target], draw: random.Random) -> Iterator[tuple[str, list[Target]]]:
    """The targets, each in a scenario it is a part of, a few for each store and in the order in which they come."""
    of_scenario: dict[str, list[Target]] = {}
    for step, when in targets:
        of_scenario.setdefault(draw.choice(SCENARIOS_OF_STEP[step]), []).append((step, when))
    for scenario, its_targets in of_scenario.items():
        draw.shuffle(its_targets)
        for first in range(0, len(its_targets), KILLS_OF_A_STORE):
            of_store = its_targets[first : first + KILLS_OF_A_STORE]
            yield scenario, sorted(of_store, key=lambda target: STEPS.index(target[0]))


def left(hits: Hits) -> list[Target]:
    """What is to be hit yet: the steps before and after, each as often as it takes together."""
    targets, times = (ALL, (HITS_WANTED + 1) // 2) if IN_FULL else (SOME, 1)
    return [target for target in targets for _ in range(times - hits.steps[target])]


def test_a_store_killed_at_any_step_is_right_at_every_instant_and_whole_in_the_end(start, hits, capsys):
    draw = random.Random(SEED)
    if IN_FULL:
        with capsys.disabled():
            print(f"\nSEED={SEED}")
    for _ in range(MOST_ROUNDS):
        for scenario, targets in by_store(left(hits), draw):
            attack = start(scenario, draw)
            for step, when in targets:
                if step in KILL_BEFORE:
                    attack.kill_at(*KILL_BEFORE[step])
                attack.kill_at(step, when)
                if hits.num_at_a_time < NUM_AT_A_TIME and draw.random() < 0.5:
                    attack.kill_at_a_time()
            attack.finish()

    if IN_FULL:
        with capsys.disabled():
            print(hits.table())
        assert hits.num_kills >= 100
        assert not [step for step in STEPS if hits.of_step(step) < HITS_WANTED]
    else:
        assert left(hits) == []


@pytest.mark.skipif(not IN_FULL, reason="a launch of torchrun takes seconds")
@pytest.mark.parametrize("scenario", [FRESH, APPEND, RETRY])
def test_a_store_of_torchrun_or_the_command_itself_is_whole_after_kills(start, hits, capsys, scenario):
    draw, num_killed = random.Random(SEED), 0
    for _ in range(MOST_ROUNDS):
        if num_killed < NUM_REAL:
            attack = start(scenario, draw)
            num_killed += attack.kill_real_launch() + attack.kill_real_launch()
            attack.finish()
    with capsys.disabled():
        print(f"\n{scenario}: {num_killed} kills of torchrun, its ranks, or the command itself")
    assert num_killed >= NUM_REAL
