"""Ranks of `tcae encode-dataset` as forks of one process that has everything imported: real ones, quick to start.

Reads launches from its input, a line of JSON each, and answers each with a line: how its ranks ended.
"""

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

BUG = 99  # exit code of a rank that raised what is no TcaeError
_POLL_S = 0.002
_PATIENCE_S = 30.0


class _Launch:
    """The ranks of one launch, or of several that begin at the same moment: a process group."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._task = task
        self._pids: list[int] = []
        self._exits: dict[int, int] = {}  # by pid; minus the signal where one ended it
        self._failed_at: dict[str, float] = {}  # by launch, when its first rank failed
        gate_out, gate_in = os.pipe()
        self._token, token_in = os.pipe()  # who takes its byte is the first at the step
        os.set_blocking(self._token, False)
        os.write(token_in, b"x")
        self._said, said_in = os.pipe()
        for environment in task["environments"]:
            if (pid := os.fork()) == 0:
                os.close(gate_in)
                os.setpgid(0, self._group)
                os.read(gate_out, 1)
                _be_a_rank(task, environment, said_in, self._take_token)
            os.setpgid(pid, self._group)
            self._pids.append(pid)
        for end in (gate_in, gate_out, token_in, said_in):
            os.close(end)
        self._started_at = time.monotonic()

    def outcome(self) -> dict[str, Any]:
        """Wait for the ranks, kill those that are to be killed at a time, and tell how all ended."""
        is_killed = False
        while len(self._exits) < len(self._pids):
            seconds = time.monotonic() - self._started_at
            if not is_killed and seconds > self._task["kill_after_s"]:
                is_killed = True
                self._kill(self._task["kill_rank"])
            self._reap(seconds)
            self._end_others(seconds)
            if seconds > _PATIENCE_S:
                self._kill(None, signal.SIGABRT)  # shows where they are
                time.sleep(1)
                raise TimeoutError(f"ranks did not end: {self._task}")
            time.sleep(_POLL_S)
        with os.fdopen(self._said) as said:
            sentences = [json.loads(line) for line in said]
        is_sprung = not self._take_token()
        os.close(self._token)
        return {"exits": [self._exits[pid] for pid in self._pids], "sentences": sentences, "is_sprung": is_sprung}

    @property
    def _group(self) -> int:
        return self._pids[0] if self._pids else 0

    def _take_token(self) -> bool:
        try:
            return bool(os.read(self._token, 1))
        except BlockingIOError:
            return False

    def _reap(self, seconds: float) -> None:
        for pid in self._pids:
            if pid not in self._exits:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self._exits[pid] = os.waitstatus_to_exitcode(status)
                    if status:
                        self._failed_at.setdefault(self._launch_of(pid), seconds)

    def _end_others(self, seconds: float) -> None:
        """What torchrun does when one of its ranks has failed."""
        for rank, pid in enumerate(self._pids):
            if seconds > self._failed_at.get(self._launch_of(pid), seconds) + self._task["grace_s"]:
                self._kill(rank)

    def _launch_of(self, pid: int) -> str:
        launch: str = self._task["environments"][self._pids.index(pid)]["TORCHELASTIC_RUN_ID"]
        return launch

    def _kill(self, rank: int | None, how: signal.Signals = signal.SIGKILL) -> None:
        for pid in self._pids if rank is None else [self._pids[rank]]:
            if pid not in self._exits:
                os.kill(pid, how)


def _be_a_rank(task: dict[str, Any], environment: dict[str, str], said_in: int, take_token: Any) -> None:
    """What a forked process does, and never returns from."""
    faulthandler.enable()
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # answers go there
    os.environ |= environment
    code = BUG
    try:
        code = _encode(task, said_in, take_token)
    except BaseException:  # noqa: BLE001 - a fork must not go on with what its parent does
        _say(said_in, traceback.format_exc())
    os._exit(code)


def _encode(task: dict[str, Any], said_in: int, take_token: Any) -> int:
    import tempfile

    import torch
    from steps import Kill, set_trap

    from tcae_cli.errors import TcaeError
    from tcae_cli.jobs import encode, encode_source
    from tcae_cli.reports.encode import EncodeRequest
    from tcae_cli.reports.progress import Silent
    from tcae_cli.reports.report import Tolerance
    from tcae_cli.sources.index_update import index_source

    torch.set_num_threads(1)
    tempfile.tempdir = task["scratch"]
    if not task["indexes_apart"]:
        encode_source.index_source_apart = lambda *args: index_source(*args)
    rank = int(os.environ.get("RANK", "0"))
    if task["kill"] and task["kill"]["rank"] in (None, rank):
        set_trap(Kill(**task["kill"]), Path(task["request"]["store"]), take_token)
    try:
        request = EncodeRequest(**task["request"], max_failures=Tolerance.parse("100%"))
        return encode.encode_dataset(request, Silent()).exit_code
    except TcaeError as error:
        _say(said_in, str(error))
        return error.exit_code


def _say(said_in: int, sentence: str) -> None:
    os.write(said_in, json.dumps(sentence).encode() + b"\n")


def _serve() -> None:
    import tcae_cli.jobs.encode  # noqa: F401 - once, for all the ranks

    for line in sys.stdin:
        print(json.dumps(_Launch(json.loads(line)).outcome()), flush=True)


if __name__ == "__main__":
    _serve()
