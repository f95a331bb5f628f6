"""A store that is encoded, killed and encoded again, held at each step against one that was never interrupted."""

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..store_contents import assert_same_store
from .launches import Driver, KillAt, Outcome
from .plain_reader import Reference, assert_committed_stay, committed_rows_of, leftovers_of
from .real_launch import RealLaunch
from .steps import KILL_BEFORE, STEPS, Kill

_MOST_RANKS = 3
_MOST_SECONDS = 0.8  # of a launch, roughly
_GRACE_S = 1.0
_FIRST_SHARD_STEP, _FIRST_FINAL_STEP = STEPS.index("status taken back"), STEPS.index("statistics written")
LEADER_STEPS, SHARD_STEPS = STEPS[:_FIRST_SHARD_STEP], STEPS[_FIRST_SHARD_STEP:_FIRST_FINAL_STEP]


@dataclass(frozen=True)
class Scenario:
    """A command, the store it begins with, and what it makes without interruption."""

    name: str
    source: Path
    options: dict[str, Any]
    base: Path | None
    reference: Reference


@dataclass
class Hits:
    """What kills have hit."""

    steps: Counter[tuple[str, str]] = field(default_factory=Counter)  # by step and "before" or "after"
    num_at_a_time: int = 0
    ranks: Counter[int] = field(default_factory=Counter)  # by the number of ranks of the launch

    @property
    def num_kills(self) -> int:
        """Launches that were killed, in part or as a whole."""
        return sum(self.ranks.values())

    def of_step(self, step: str) -> int:
        """How often the kill was before or after it."""
        return self.steps[step, "before"] + self.steps[step, "after"]

    def table(self) -> str:
        """Hits of each step."""
        lines = [f"{'step':26}{'before':>8}{'after':>8}"]
        lines += [f"{step:26}{self.steps[step, 'before']:8}{self.steps[step, 'after']:8}" for step in STEPS]
        ranks = ", ".join(f"{self.ranks[number]} of {number} ranks" for number in sorted(self.ranks))
        return "\n".join([*lines, f"at a drawn time: {self.num_at_a_time}", f"kills: {self.num_kills} ({ranks})"])


class Attack:
    """One store, and the launches on it."""

    def __init__(
        self,
        scenario: Scenario,
        store: Path,
        driver: Driver,
        request_of: Callable[..., dict[str, Any]],
        draw: random.Random,
        hits: Hits,
    ) -> None:
        self._scenario, self._driver, self._draw, self._hits = scenario, driver, draw, hits
        self.store = store
        if scenario.base:
            shutil.copytree(scenario.base, store)
        self._request = request_of(scenario.source, store, **scenario.options)
        self._same_launch = f"again-{draw.random()}"  # a job that a scheduler starts again keeps its number

    def kill_real_launch(self) -> bool:
        """Launch with torchrun, or as one process, and kill one rank or all after some records; False if too late."""
        num_ranks, num_records = self._draw.randint(1, _MOST_RANKS), self._draw.randrange(3)
        rank = self._draw.choice([None, self._draw.randrange(num_ranks)])
        with self._watched():
            launch = RealLaunch(self._request, num_ranks)
            is_killed = launch.kill_after(num_records, self._draw.uniform(0, 0.1), rank)
        if is_killed:
            self._hits.ranks[num_ranks] += 1
        return is_killed

    def kill_at_a_time(self) -> None:
        """Launch, and kill one rank or all after a drawn time."""
        num_ranks = self._draw.randint(1, _MOST_RANKS)
        rank = self._draw.choice([None, self._draw.randrange(num_ranks)])
        outcome = self._launch(num_ranks, KillAt(self._draw.uniform(0, _MOST_SECONDS), rank), grace_s=_GRACE_S)
        if outcome.is_killed:
            self._hits.num_at_a_time += 1
            self._hits.ranks[num_ranks] += 1

    def kill_at(self, step: str, when: str) -> None:
        """Launch, and kill at a step the rank that comes to it first, or a drawn one, or then all."""
        num_ranks = self._draw.randint(1, _MOST_RANKS)
        is_frequent = step in SHARD_STEPS and step not in KILL_BEFORE  # a rank comes to it again and again
        rank = self._draw.randrange(num_ranks) if is_frequent and self._draw.random() < 0.5 else None
        nth = self._draw.randint(1, 3) if is_frequent or "written" in step else 1
        kill = Kill(step, when, nth, rank, whole_launch=self._draw.random() < 0.4)
        # Before the others begin they wait for the leader, and its launcher ends them.
        grace_s = _GRACE_S if step in LEADER_STEPS else None
        if self._launch(num_ranks, kill, grace_s=grace_s).is_sprung:
            self._hits.steps[step, when] += 1
            self._hits.ranks[num_ranks] += 1

    def finish(self) -> None:
        """Let it come to its end: the store is what it would have been without interruption."""
        num_ranks = self._draw.randint(1, _MOST_RANKS)
        outcome = self._launch(num_ranks, None)
        assert outcome.exits == [0] * num_ranks, outcome
        assert_same_store(self.store, self._scenario.reference.path)
        leftovers = leftovers_of(self.store)
        assert not leftovers, leftovers

    def _launch(self, num_ranks: int, kill: Kill | KillAt | None, grace_s: float | None = None) -> Outcome:
        launch_id = self._same_launch if kill and self._draw.random() < 0.3 else None
        apart = self._draw.random() < 0.1
        with self._watched():
            outcome = self._driver.launch(
                self._request, num_ranks, kill, launch_id=launch_id, indexes_apart=apart, grace_s=grace_s
            )
        self._assert_ended_well(outcome)
        return outcome

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Asserts that a launch writes nothing committed again, nor takes it back, and that what is ok is right."""
        reference, retries = self._scenario.reference, "retry_failed" in self._scenario.options
        committed, ok_rows = reference.committed_files_of(self.store, retries), committed_rows_of(self.store)
        yield
        assert_committed_stay(committed, reference.committed_files_of(self.store, retries))
        no_longer_ok = ok_rows - reference.ok_rows_of(self.store)
        assert not no_longer_ok, no_longer_ok

    def _assert_ended_well(self, outcome: Outcome) -> None:
        """Ranks that were not killed have finished, or say that the one they waited for has stopped."""
        allowed = "rank 0 has stopped" if outcome.is_killed else ""
        strange = [sentence for sentence in outcome.sentences if not (allowed and allowed in sentence)]
        assert not strange, strange
        assert all(code in (0, 1, -9) for code in outcome.exits), outcome
