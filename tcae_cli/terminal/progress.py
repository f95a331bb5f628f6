"""Progress on stderr with rate and time left, as a bar on a terminal and as plain lines elsewhere."""

import time
from collections.abc import Iterable
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
    """Units a second since the task began."""

    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f}/s" if speed else "", style="progress.data.speed")


class _Bar(Progress):
    """A task's bar, and its note on a line below, where a long one leaves the bar as it is."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if note := task.fields["note"]:
                yield Text(note, style="progress.remaining")


class ConsoleProgress:
    """A reports.progress.Progress on stderr."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._label, self._unit, self._total = "", "", 0
        self._done = self._done_before = self._failed = 0
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> "ConsoleProgress":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._stop()

    def start(self, task: str, total: int, done: int = 0, unit: str = "images") -> None:
        self._stop()
        self._label, self._unit, self._total = task, unit, total
        self._done = self._done_before = done
        self._failed = 0
        self._started = self._last_line = time.monotonic()
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
            self._task = self._bar.add_task(task, total=total, completed=done, note="")
            self._bar.start()

    def advance(self, count: int = 1, failed: int = 0, note: str = "") -> None:
        self._done += count
        self._failed += failed
        note = ", ".join(filter(None, [note, f"{self._failed} failed" if self._failed else ""]))
        if self._bar is not None:
            self._bar.update(self._task, advance=count, note=note)
        elif time.monotonic() - self._last_line >= _LINE_EVERY_S or self._done == self._total:
            self._last_line = time.monotonic()
            self._console.print(self._line(note), soft_wrap=True)

    def say(self, sentence: str) -> None:
        self._console.print(sentence, soft_wrap=True, markup=False)

    def _line(self, note: str) -> str:
        elapsed_s = time.monotonic() - self._started
        rate = (self._done - self._done_before) / elapsed_s if elapsed_s else 0.0
        left = f", {duration((self._total - self._done) / rate)} left" if rate and self._done < self._total else ""
        tail = f", {note}" if note else ""
        return f"{self._label}: {self._done:,} of {self._total:,} {self._unit}, {rate:,.1f}/s{left}{tail}"

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
