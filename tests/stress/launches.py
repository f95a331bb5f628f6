"""Launches of `tcae encode-dataset` with the driver: how many ranks, and where they are killed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from .steps import Kill

_NEVER_S = 1e9
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a process that forks should have no more


@dataclass(frozen=True)
class KillAt:
    """A kill after so much time."""

    after_s: float
    rank: int | None = None  # None for all


@dataclass(frozen=True)
class Outcome:
    """How a launch ended."""

    exits: list[int]  # by rank; minus the signal where one ended it
    sentences: list[str]  # errors of those that were not killed
    is_sprung: bool  # whether the step to be killed at was reached

    @property
    def is_killed(self) -> bool:
        """Whether some rank was."""
        return -signal.SIGKILL in self.exits


class Driver:
    """The process whose forks the ranks are."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("driver.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | _ONE_THREAD,
        )

    def launch(
        self,
        request: dict[str, Any],
        num_ranks: int,
        kill: Kill | KillAt | None = None,
        *,
        launch_id: str | None = None,
        indexes_apart: bool = False,
        grace_s: float | None = None,
    ) -> Outcome:
        """Run so many ranks until all have ended; `grace_s` after one was killed the others are, too."""
        return self._run(
            request, ranks(num_ranks, launch_id or uuid4().hex), kill, indexes_apart=indexes_apart, grace_s=grace_s
        )

    def launch_together(self, request: dict[str, Any], *nums_ranks: int) -> Outcome:
        """Several launches that begin at the same moment."""
        environments = [each for number in nums_ranks for each in ranks(number, uuid4().hex)]
        return self._run(request, environments, None, indexes_apart=False, grace_s=1.0)

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=60)

    def _run(
        self,
        request: dict[str, Any],
        environments: list[dict[str, str]],
        kill: Kill | KillAt | None,
        *,
        indexes_apart: bool,
        grace_s: float | None,
    ) -> Outcome:
        at = kill if isinstance(kill, KillAt) else KillAt(_NEVER_S)
        task = {
            "request": request,
            "environments": environments,
            "scratch": str(self._scratch),
            "kill": asdict(kill) if isinstance(kill, Kill) else None,
            "kill_after_s": at.after_s,
            "kill_rank": at.rank,
            "grace_s": _NEVER_S if grace_s is None else grace_s,
            "indexes_apart": indexes_apart,
        }
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the driver has ended; its own traceback says why"
        return Outcome(**json.loads(line))


def ranks(num_ranks: int, launch_id: str) -> list[dict[str, str]]:
    """What torchrun puts into the environment of each rank."""
    shared = {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks), "TORCHELASTIC_RUN_ID": launch_id}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)]
