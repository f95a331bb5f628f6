"""Read, compute and write at the same time: bounded stages, and the seconds each was busy."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Read = TypeVar("Read")
Computed = TypeVar("Computed")

_IN_FLIGHT = 3  # computed batches that may wait for the writer: memory does not grow with the run


def run_pipeline(
    batches: Iterable[Read], compute: Callable[[Read], Computed], write: Callable[[Computed], None]
) -> None:
    """Feed every batch through compute (this thread) and write (one thread, in order).

    Reading overlaps both when `batches` is made elsewhere, as a loader with workers does. An error in any stage ends
    the run and is raised here; what was handed to the writer before it is still written.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="writer") as writer:
        in_flight: deque[Future[None]] = deque()
        for batch in batches:
            in_flight.append(writer.submit(write, compute(batch)))
            if len(in_flight) > _IN_FLIGHT:
                in_flight.popleft().result()
        for future in in_flight:
            future.result()


class Stopwatch:
    """Adds up the seconds spent inside `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started
