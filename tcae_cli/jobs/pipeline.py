"""Runs batches through stages that read, compute and write at the same time, in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event
from typing import Any, NamedTuple

_WAITING = 2  # batches more than are worked on at once: memory does not grow with the run


class Stage(NamedTuple):
    """One step of the work on each batch; several threads work on several batches at once."""

    work: Callable[[Any], Any]
    num_threads: int = 1


def run_pipeline(batches: Iterable[Any], stages: Sequence[Stage], write: Callable[[Any], None]) -> None:
    """Pass every batch through the stages, one after the other, and write the results in the order of the batches.

    Reading overlaps with them when `batches` is made elsewhere, as a loader with workers does. An error in any stage
    ends the run and is raised here; nothing is written after it.
    """
    stopped = Event()

    def write_result(result: Future[Any]) -> None:
        if not stopped.is_set():
            stopped.set()  # and so it stays if this raises
            write(result.result())
            stopped.clear()

    with ExitStack() as pools:
        workers = [pools.enter_context(ThreadPoolExecutor(stage.num_threads, "compute")) for stage in stages]
        writing = pools.enter_context(ThreadPoolExecutor(1, "write"))
        most = sum(stage.num_threads for stage in stages) + _WAITING
        in_flight: deque[Future[None]] = deque()
        for batch in batches:
            result: Future[Any] = Future()
            result.set_result(batch)
            for stage, worker in zip(stages, workers, strict=True):
                result = worker.submit(_work_on, stage.work, result)
            in_flight.append(writing.submit(write_result, result))
            if len(in_flight) >= most:
                in_flight.popleft().result()
        for future in in_flight:
            future.result()


def _work_on(work: Callable[[Any], Any], before: Future[Any]) -> Any:
    return work(before.result())
