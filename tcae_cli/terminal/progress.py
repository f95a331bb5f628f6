"""Progress on stderr, with rate and time left: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as RichTask
from rich.text import Text

from tcae_cli.terminal.words import duration

_LINE_EVERY_S = 10.0


class _Rate(ProgressColumn):
    """Shows units per second since the task began."""

    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f}/s" if speed else "", style="progress.data.speed")


class _Bar(Progress):
    """The bar of a task, and its note on a line of its own, so that a long note does not squeeze the bar."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if note := task.fields["note"]:
                yield Text(note, style="progress.remaining")


@dataclass
class _Counts:
    """The progress of a task in numbers."""

    task: str
    unit: str
    total: int
    done_before: int  # by earlier runs
    done: int
    failed: int = 0
    started_at: float = field(default_factory=time.monotonic)

    def line(self, note: str) -> str:
        """Return the counts in words, with rate and time left."""
        elapsed_s = time.monotonic() - self.started_at
        rate = (self.done - self.done_before) / elapsed_s if elapsed_s else 0.0
        left = f", {duration((self.total - self.done) / rate)} left" if rate and self.done < self.total else ""
        tail = f", {note}" if note else ""
        return f"{self.task}: {self.done:,} of {self.total:,} {self.unit}, {rate:,.1f}/s{left}{tail}"


class ConsoleProgress:
    """A reports.progress.Progress on stderr; on leaving its context, the bar stops."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._counts = _Counts("", "", total=0, done_before=0, done=0)
        self._last_line_at = time.monotonic()
        self._bar: Progress | None = None
        self._bar_task = TaskID(0)

    def __enter__(self) -> "ConsoleProgress":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._stop_bar()

    def start(self, task: str, total: int, done: int = 0, unit: str = "images") -> None:
        self._stop_bar()
        self._counts = _Counts(task, unit, total, done_before=done, done=done)
        self._last_line_at = time.monotonic()
        if self._console.is_terminal:
            self._bar = _Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(unit),
                _Rate(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=self._console,
            )
            self._bar_task = self._bar.add_task(task, total=total, completed=done, note="")
            self._bar.start()

    def advance(self, count: int = 1, failed: int = 0, note: str = "") -> None:
        counts = self._counts
        counts.done += count
        counts.failed += failed
        note = ", ".join(filter(None, [note, f"{counts.failed} failed" if counts.failed else ""]))
        if self._bar is not None:
            self._bar.update(self._bar_task, advance=count, note=note)
        elif time.monotonic() - self._last_line_at >= _LINE_EVERY_S or counts.done == counts.total:
            self._last_line_at = time.monotonic()
            self._console.print(counts.line(note), soft_wrap=True)

    def say(self, sentence: str) -> None:
        self._console.print(sentence, soft_wrap=True, markup=False)

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
