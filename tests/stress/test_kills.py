"""kill -9 at any instant of `tcae encode-dataset`; `make stress` kills more often, and at instants drawn anew."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from .attack import Attack, Hits, Scenario
from .launches import Driver
from .steps import KILL_BEFORE, SCENARIOS_OF_STEP, STEPS

IN_FULL = bool(os.environ.get("STRESS"))
SEED = int(os.environ.get("SEED", random.SystemRandom().randrange(10**6) if IN_FULL else 1))
MOST_ROUNDS = 8
HITS_WANTED = 3
NUM_AT_A_TIME = 30 if IN_FULL else 4
KILLS_OF_A_STORE = 3

Start = Callable[[str], Attack]
Target = tuple[str, str]  # a step, and "before" or "after" it


@pytest.fixture
def start(scenarios, driver, request_of, tmp_path) -> Start:
    """Begins an attack on a store in a scenario."""
    numbers = iter(range(10**6))

    def begin(name: str, draw: random.Random, hits: Hits) -> Attack:
        return Attack(scenarios[name], tmp_path / f"{next(numbers)}.zarr", driver, request_of, draw, hits)

    return begin


def stores_of(targets: Sequence[Target], draw: random.Random) -> Iterator[tuple[str, list[Target]]]:
    """The targets by scenario, a few for each store, in the order in which a run comes to them."""
    of_scenario: dict[str, list[Target]] = {}
    for step, when in targets:
        of_scenario.setdefault(draw.choice(SCENARIOS_OF_STEP[step]), []).append((step, when))
    for scenario, its_targets in of_scenario.items():
        draw.shuffle(its_targets)
        for first in range(0, len(its_targets), KILLS_OF_A_STORE):
            of_store = its_targets[first : first + KILLS_OF_A_STORE]
            yield scenario, sorted(of_store, key=lambda target: STEPS.index(target[0]))


def attack(attacked: Attack, targets: Sequence[Target], draw: random.Random, hits: Hits) -> None:
    """Kill at each of the targets, now and then at a drawn time too, and let the store come to its end."""
    for step, when in targets:
        if step in KILL_BEFORE:
            attacked.kill_at(*KILL_BEFORE[step])
        attacked.kill_at(step, when)
        if hits.num_at_a_time < NUM_AT_A_TIME and draw.random() < 0.4:
            attacked.kill_at_a_time()
    attacked.finish()


def targets_left(hits: Hits) -> list[Target]:
    """What is to be hit yet: each step before and after."""
    if not IN_FULL:
        return []
    both = [(step, when) for step in STEPS for when in ("before", "after")]
    return [target for target in both for _ in range(HITS_WANTED - 1 - hits.steps[target])]


def test_a_store_killed_at_any_step_is_right_at_every_instant_and_whole_in_the_end(start, capsys):
    draw, hits = random.Random(SEED), Hits()
    for _ in range(MOST_ROUNDS):
        for scenario, targets in stores_of(targets_left(hits), draw):
            attack(start(scenario, draw, hits), targets, draw, hits)
    with capsys.disabled():
        print(f"\nseed {SEED}\n{hits.table()}")
