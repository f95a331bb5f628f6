"""Read, compute and write at the same time, in bounded stages."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import TypeVar

Read = TypeVar("Read")
Computed = TypeVar("Computed")

_WAITING = 2  # batches more than are computed at once: memory does not grow with the run


def run_pipeline(
    batches: Iterable[Read],
    compute: Callable[[Read], Computed],
    write: Callable[[Computed], None],
    num_threads: int = 1,
) -> None:
    """Feed every batch through compute (so many threads) and write (one thread, in the order of the batches).

    Reading overlaps both when `batches` is made elsewhere, as a loader with workers does. An error in any stage ends
    the run and is raised here; nothing is written after it.
    """
    stopped = Event()

    def write_computed(computed: Future[Computed]) -> None:
        if not stopped.is_set():
            stopped.set()  # and so it stays if this raises
            write(computed.result())
            stopped.clear()

    with ThreadPoolExecutor(num_threads, "compute") as computing, ThreadPoolExecutor(1, "write") as writing:
        in_flight: deque[Future[None]] = deque()
        for batch in batches:
            in_flight.append(writing.submit(write_computed, computing.submit(compute, batch)))
            if len(in_flight) >= num_threads + _WAITING:
                in_flight.popleft().result()
        for future in in_flight:
            future.result()
