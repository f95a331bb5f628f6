"""The protocol by which a job reports its progress."""

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
