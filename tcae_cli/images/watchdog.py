"""Notices when a worker of a DataLoader dies or hangs, and which row it was on."""

import errno
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from signal import Signals
from typing import Any, Literal, TypeVar

import torch
from torch.utils.data import DataLoader, get_worker_info

# Both are read in the parent alone.
HUNG_AFTER_S = 25.0  # on one stage of one row; or all workers idle while the parent waits
LOOK_EVERY_S = 1.0

Stage = Literal["read", "decode"]
Result = TypeVar("Result")

_STAGES: tuple[Stage, ...] = ("read", "decode")
_RESTING = -1
_LEAVE_S = 5.0  # for a killed worker to end; one that is blocked on a disk may take longer, and is left behind
_SIGNS_OF_A_DEATH = ("exited unexpectedly", "is killed by signal")
_SIGN_OF_A_WAIT = "DataLoader timed out"  # its iterator can go on: nothing has been taken or counted


class WorkersLost(Exception):
    """At least one worker has died or hung; all of them are gone once this has left `watched`."""

    def __init__(self, how: str, held: dict[int, tuple[Stage, str]]) -> None:
        super().__init__(how)
        self.held = held  # row that a lost worker was on -> stage, fate of the worker


class RowNotes:
    """The row that each worker is on, in memory shared with the parent."""

    def __init__(self, num_workers: int) -> None:
        # Columns: row and stage in one number, written at once; when it began, which tells two visits to a row apart.
        self._table = torch.full((num_workers, 2), _RESTING, dtype=torch.int64).share_memory_()
        self.parent_reads = False  # in the parent alone

    @contextmanager
    def waiting_for_the_source(self) -> Iterator[None]:
        """Note that the parent waits for the source and not for a worker, which may take as long as a download."""
        self.parent_reads = True
        try:
            yield
        finally:
            self.parent_reads = False

    def begin(self, row: int, stage: Stage) -> None:
        """Note the row and stage that the calling worker is on from now on; does nothing outside a worker."""
        self._write(row * len(_STAGES) + _STAGES.index(stage))

    def rest(self) -> None:
        """Note that the calling worker is on no row; does nothing outside a worker."""
        self._write(_RESTING)

    def held(self, worker: int) -> tuple[int, Stage] | None:
        """Return the row and stage that a worker is on, or was on when it died; None between rows."""
        note = int(self._table[worker, 0])
        return None if note == _RESTING else (note // len(_STAGES), _STAGES[note % len(_STAGES)])

    def snapshot(self) -> list[list[int]]:
        """Return one entry per worker, which changes whenever the worker notes something."""
        entries: list[list[int]] = self._table.tolist()
        return entries

    def _write(self, note: int) -> None:
        if worker := get_worker_info():
            self._table.numpy()[worker.id] = note, time.monotonic_ns()


def watched(loader: DataLoader[Result], notes: RowNotes) -> Generator[Result, None, None]:
    """Yield the results of the loader's workers, in order; the workers are gone when this ends or is closed.

    loader: with workers that keep the notes, a timeout of LOOK_EVERY_S, and no pinning of memory, whose thread would be
    stopped by a worker's death. Raises WorkersLost if a worker dies, stays on a row for more than HUNG_AFTER_S, or if
    nothing at all comes from the workers for so long.
    """
    try:
        iterator: Any = iter(loader)
    except (OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno == errno.EMFILE:
            raise  # new workers would meet the same
        raise WorkersLost(f"starting it: {error}", {}) from error
    watchdog = _Watchdog(notes, iterator._workers)
    try:
        while True:
            try:
                result = watchdog.next(iterator)
            except StopIteration:
                return
            yield result
    finally:
        watchdog.stop()
        _end_workers(iterator, notes)


class _Watchdog:
    """A thread that kills the worker that hangs, so that every hang becomes a death.

    The parent cannot do this itself: to take a batch it shakes hands with the worker, and would wait for a hung one.
    """

    def __init__(self, notes: RowNotes, workers: list[BaseProcess]) -> None:
        self._notes = notes
        self._workers = workers
        self._killed: dict[int, tuple[int, Stage] | None] = {}  # worker -> the row and stage it was on
        self._seen = notes.snapshot()
        self._still_s = [0.0] * len(workers)
        self._wait: object | None = None  # one object for each batch that the parent waits for
        self._seen_wait: object | None = None
        self._waited_s = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def next(self, iterator: Any) -> Any:
        """Return the next result. Raises StopIteration after the last one, WorkersLost if a worker is lost."""
        self._wait = object()
        try:
            while True:
                try:
                    return next(iterator)
                except (RuntimeError, OSError, EOFError) as error:
                    if _SIGN_OF_A_WAIT in str(error) and not self._killed:
                        continue
                    if _SIGN_OF_A_WAIT not in str(error) and not _tells_of_a_death(error):
                        raise
                    raise self._lost() from error
        finally:
            self._wait = None

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        looked_at = time.monotonic()
        while not self._stopped.wait(LOOK_EVERY_S):
            now = time.monotonic()
            # While this process itself was stopped (Ctrl-Z, a laptop's lid), so were its workers: that does not count.
            self._look(min(now - looked_at, 2 * LOOK_EVERY_S))
            looked_at = now

    def _look(self, elapsed_s: float) -> None:
        entries = self._notes.snapshot()
        current = None if self._notes.parent_reads else self._wait
        for worker, entry in enumerate(entries):
            self._still_s[worker] = self._still_s[worker] + elapsed_s if entry == self._seen[worker] else 0.0
        self._waited_s = self._waited_s + elapsed_s if current is not None and current is self._seen_wait else 0.0
        self._seen = entries
        self._seen_wait = current

        all_idle = min(self._waited_s, *self._still_s) > HUNG_AFTER_S
        for worker, still_s in enumerate(self._still_s):
            if not all_idle and not (still_s > HUNG_AFTER_S and self._notes.held(worker)):
                continue
            process = self._workers[worker]
            # A worker that is dead already did not hang, and its number may be another process's by now.
            if worker not in self._killed and not wait([process.sentinel], 0):
                self._killed[worker] = self._notes.held(worker)
                process.kill()

    def _lost(self) -> WorkersLost:
        wait([process.sentinel for process in self._workers], LOOK_EVERY_S)  # it may be dying still
        held: dict[int, tuple[Stage, str]] = {}
        how = "no answer"
        for worker, process in enumerate(self._workers):
            if worker in self._killed:
                fate, on = f"hung on it for more than {HUNG_AFTER_S:g} s", self._killed[worker]
            elif process.exitcode is not None:
                how = _ending(process.exitcode)
                fate, on = f"{how} on it", self._notes.held(worker)
            else:
                continue
            if on:
                held[on[0]] = (on[1], fate)
        return WorkersLost(how, held)


def _tells_of_a_death(error: Exception) -> bool:
    if str(error).startswith("Caught "):  # raised in a worker that lives, and again here
        return False
    # The handshake over a batch that a dead worker has left fails with an OSError or an EOFError.
    return isinstance(error, OSError | EOFError) or any(sign in str(error) for sign in _SIGNS_OF_A_DEATH)


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    names = {number.value: number.name for number in Signals}
    return f"was killed by {names.get(-exit_code, f'signal {-exit_code}')}"


def _end_workers(iterator: Any, notes: RowNotes) -> None:
    """Kill workers on a row, which may take long; ask others, which may hold a lock, to leave; kill those that stay."""
    for worker, process in enumerate(iterator._workers):
        if notes.held(worker) and process.is_alive():
            process.kill()
    iterator._shutdown_workers()
    for process in iterator._workers:
        if process.is_alive():
            process.kill()
            process.join(_LEAVE_S)
