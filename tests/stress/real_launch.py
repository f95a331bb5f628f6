"""`tcae encode-dataset` as users start it: the command itself, or torchrun with several ranks."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_PATIENCE_S = 60.0
_OPTIONS = {"append": "--append", "retry_failed": "--retry-failed"}


class RealLaunch:
    """One launch, from its start until it is killed."""

    def __init__(self, request: dict[str, Any], num_ranks: int) -> None:
        self._store = Path(request["store"])
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
        command = [sys.executable, *(torchrun if num_ranks > 1 else []), "-m", "tcae_cli", "encode-dataset"]
        command += [request["source"], str(self._store), "--model", request["model"], "--device", "cpu", "--flip"]
        command += ["--batch-size", str(request["batch_size"]), "--workers", "1", "--max-failures", "100%"]
        command += [option for name, option in _OPTIONS.items() if request.get(name)]
        self._started_at = time.time()
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill_after(self, num_records: int, seconds: float, rank: int | None) -> bool:
        """Once so many records were written, and a while later, kill a rank, or everything at once; False if too late.

        When a rank is killed, torchrun ends the others.
        """
        self._wait_until(lambda: self._is_over() or (self._num_records() >= num_records and bool(self._ranks())))
        time.sleep(seconds)
        ranks, everything = self._ranks(), [self._process.pid, *_descendants(self._process.pid)]
        is_in_time = not self._is_over()
        for pid in everything if rank is None else [ranks[rank]] if rank in ranks else []:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        is_killed = self._process.wait(_PATIENCE_S) != 0 and is_in_time
        self._wait_until(lambda: not any(map(_is_running, everything)))
        return is_killed

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        patience_ends_at = time.monotonic() + _PATIENCE_S
        while not is_so():
            assert time.monotonic() < patience_ends_at
            time.sleep(0.002)

    def _is_over(self) -> bool:
        return self._process.poll() is not None

    def _num_records(self) -> int:
        records = self._store.glob(".tcae/commits/*.json")
        return sum(path.stat().st_mtime > self._started_at for path in records)

    def _ranks(self) -> dict[int, int]:
        """Process numbers of those that have claimed the store, by rank."""
        ranks = {}
        for path in self._store.glob(".tcae/leases/*.json"):
            with suppress(FileNotFoundError):
                pid = json.loads(path.read_bytes())["pid"]
                if _is_running(pid):
                    ranks[int(path.stem.rpartition(".")[2])] = pid
        return ranks


def _descendants(pid: int) -> list[int]:
    """The processes a process started, and those they started."""
    with suppress(FileNotFoundError):
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [each for child in children for each in (child, *_descendants(child))]
    return []


def _is_running(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    return False
