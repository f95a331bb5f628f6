"""Starts several ranks of one job on this machine through torch's elastic launcher, and merges their reports."""

import logging
import multiprocessing
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import uuid4

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tcae_cli.errors import DeviceError, TcaeError, UsageError
from tcae_cli.reports.progress import Progress, listening
from tcae_cli.runtime import distributed
from tcae_cli.runtime.processes import leave

Request = TypeVar("Request")
Result = TypeVar("Result")
Merged = TypeVar("Merged")
Job = Callable[[Request, Progress], Result]

_END = ("end", ())


def on_gpus(
    job: Job[Request, Result], merge: Callable[[Sequence[Result]], Merged], gpus: int, device: str | None
) -> Job[Request, Merged]:
    """Return a job that runs `job` on so many GPUs of this machine, a process each, and returns the merged report.

    Raises UsageError if the processes were started already, and for another device.
    """
    refuse_gpus(device)
    return lambda request, progress: merge(run_ranks(job, request, progress, gpus))


def refuse_gpus(device: str | None) -> None:
    """Raise UsageError if --gpus cannot be used: the processes were started already, or on another device."""
    if distributed.in_a_launch():
        raise UsageError(
            "--gpus starts processes, but torchrun, Slurm or another launcher has started them; omit --gpus"
        )
    if device is not None and device != "cuda":
        raise UsageError(f"--gpus and --device {device} exclude each other; omit one")


def run_ranks(job: Job[Request, Result], request: Request, progress: Progress, num_ranks: int) -> list[Result]:
    """Run a job in so many processes and return their results, by rank.

    The first error a user can cause ends all of them and is raised here. Ctrl-C ends all of them.
    """
    for name in ("torch.distributed", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="spawn",
        max_restarts=0,
        monitor_interval=0.1,
    )
    said = multiprocessing.get_context("spawn").SimpleQueue()
    listener = _Listener(said, progress, num_ranks)
    listener.start()
    try:
        results: dict[int, Result] = elastic_launch(config, _run_rank)(job, request, said)
    except ChildFailedError as error:
        listener.end()
        rank, failure = error.get_first_failure()
        reason = f"rank {rank} with exit code {failure.exitcode}"
        raise listener.error or DeviceError(f"a process of the launch ended unexpectedly: {reason}") from error
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise
    finally:
        listener.end()
    return [results[rank] for rank in range(num_ranks)]


def _run_rank(job: Job[Request, Result], request: Request, said: Any) -> Result:
    """Run the job in one process. An error is sent to the parent, which ends the other ranks when this one has ended.

    The process leaves at once, because Python's own end could wait for the other ranks.
    """
    relay = _Relay(said)
    exit_code = 1
    try:
        with listening(relay):
            return job(request, relay)
    except TcaeError as error:
        said.put(("error", (error,)))
    except KeyboardInterrupt:
        exit_code = 130
    except Exception:  # noqa: BLE001 - a bug, shown as Python shows it
        traceback.print_exc()
    return leave(exit_code)


class _Relay:
    """A Progress that sends its calls to the parent."""

    def __init__(self, said: Any) -> None:
        self._said = said

    def start(self, task: str, total: int, done: int = 0, unit: str = "images") -> None:
        self._said.put(("start", (task, total, done, unit)))

    def advance(self, count: int = 1, failed: int = 0, note: str = "") -> None:
        self._said.put(("advance", (count, failed, note)))

    def say(self, sentence: str) -> None:
        self._said.put(("say", (sentence,)))


class _Listener(threading.Thread):
    """Adds up the progress of the ranks into one, and keeps the first error."""

    def __init__(self, said: Any, progress: Progress, num_ranks: int) -> None:
        super().__init__(name="listener", daemon=True)
        self._said = said
        self._progress = progress
        self._num_ranks = num_ranks
        self._total = 0
        self._done = 0
        self.error: TcaeError | None = None

    def run(self) -> None:
        while (message := self._said.get()) != _END:
            kind, values = message
            match kind:
                case "start":
                    task, total, done, unit = values
                    self._total += total
                    self._done += done
                    name = task.partition(",")[0]
                    self._progress.start(f"{name}, {self._num_ranks} ranks", self._total, self._done, unit)
                case "advance":
                    self._done += values[0]
                    self._progress.advance(*values)
                case "say":
                    self._progress.say(*values)
                case "error":
                    self.error = self.error or values[0]

    def end(self) -> None:
        """Handle the messages sent so far, and stop."""
        if self.is_alive():
            self._said.put(_END)
            self.join()
