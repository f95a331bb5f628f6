"""Runs a function on items in threads, a few ahead of what is consumed."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], most: int, num_threads: int | None = None
) -> Generator[Result, None, None]:
    """Yield function(item) of each item, in order, with at most so many under way or waiting to be taken.

    num_threads: by default one for each under way; with 1, items are also worked on in order.
    """
    pool = ThreadPoolExecutor(num_threads or most)
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) == most:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # A consumer that stops early does not wait for reads that nobody wants any more.
        pool.shutdown(wait=False, cancel_futures=True)
