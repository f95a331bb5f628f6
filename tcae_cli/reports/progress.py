"""The protocol by which a job reports its progress."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """The receiver of a job's progress: the terminal draws it, tests ignore it."""

    def start(self, task: str, total: int, done: int = 0, unit: str = "images") -> None:
        """Begin a task of `total` units, of which earlier runs finished `done`."""

    def advance(self, count: int = 1, failed: int = 0, note: str = "") -> None:
        """Count units finished, how many of them failed, and a short note to show beside the rate."""

    def say(self, sentence: str) -> None:
        """Show one sentence now."""


class Silent:
    """A Progress that shows nothing."""

    def start(self, task: str, total: int, done: int = 0, unit: str = "images") -> None: ...
    def advance(self, count: int = 1, failed: int = 0, note: str = "") -> None: ...
    def say(self, sentence: str) -> None: ...


SILENT = Silent()

_listener: Progress = SILENT


@contextmanager
def listening(progress: Progress) -> Iterator[None]:
    """Let a Progress say what this process says aside, until the context ends."""
    global _listener
    before = _listener
    _listener = progress
    try:
        yield
    finally:
        _listener = before


def say_aside(sentence: str) -> None:
    """Show a sentence from where no Progress is at hand, as deep inside a read."""
    _listener.say(sentence)
