"""The terminal: progress with rate and time left, plain lines where there is no terminal, and reports as tables.

Progress goes to stderr, reports to stdout.
"""

import json
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
from rich.table import Table
from rich.text import Text

from tcae_cli.eval_report import EvalReport
from tcae_cli.eval_tables import show_evaluation
from tcae_cli.export_report import ExportReport
from tcae_cli.report import DecodeReport, EncodeReport, Report, TrainReport
from tcae_cli.store_report import InfoReport, VerifyReport
from tcae_cli.store_tables import show_info, show_verification

_LINE_EVERY_S = 10.0
_WIDE = 400  # characters


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
    """A report.Progress on stderr."""

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
        left = f", {_duration((self._total - self._done) / rate)} left" if rate and self._done < self._total else ""
        tail = f", {note}" if note else ""
        return f"{self._label}: {self._done:,} of {self._total:,} {self._unit}, {rate:,.1f}/s{left}{tail}"

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def show_report(report: Report, as_json: bool) -> None:
    """Print what a job did on stdout: a few lines and a table, or one JSON object."""
    if isinstance(report, TrainReport | EvalReport) and report.rank:
        return
    if as_json:
        print(json.dumps(report.as_dict(), ensure_ascii=False))
        return
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if not console.is_terminal:
        console.width = _WIDE  # a line a row, for whoever greps
    match report:
        case EncodeReport():
            _show_encoding(console, report)
        case DecodeReport():
            _show_decoding(console, report)
        case EvalReport():
            show_evaluation(console, report)
        case ExportReport():
            _show_export(console, report)
        case InfoReport():
            show_info(console, report)
        case VerifyReport():
            show_verification(console, report)
        case TrainReport():
            _show_training(console, report)


def _show_encoding(console: Console, report: EncodeReport) -> None:
    if not report.decides:
        others = "" if report.complete else "; others are still at work, or yet to be started"
        console.print(f"{report.store}: this process has done its part{others}")
    elif not report.num_encoded_now:
        console.print(
            f"{report.store} is complete: {report.num_ok:,} rows ok, {report.num_failed:,} failed; nothing to do"
        )
    else:
        size = f"{report.bytes_on_disk / 1e6:,.1f} MB"
        console.print(f"{report.store} is complete: {report.num_ok:,} rows ok, {report.num_failed:,} failed, {size}")
    if report.num_encoded_now:
        rate = report.num_encoded_now / report.elapsed_s
        console.print(f"{report.num_encoded_now:,} images in {_duration(report.elapsed_s)}, {rate:,.1f}/s")
        table = Table("stage", "busy", "share of the time", box=None, pad_edge=False)
        for stage, seconds in report.stage_seconds.items():
            mark = "  <- slowest" if stage == report.slowest_stage else ""
            table.add_row(stage, f"{seconds:,.1f} s", f"{seconds / report.elapsed_s:.0%}{mark}")
        console.print(table)
    if report.num_clipped:
        console.print(f"{report.num_clipped:,} values were beyond the int8 scales and are clipped")
    if report.failures:
        table = Table("failed", "stage", "reason", box=None, pad_edge=False)
        for failure in report.failures:
            table.add_row(Text(failure["path"]), failure["stage"], Text(failure["error"]))
        console.print(table)
        if report.num_failed > len(report.failures):
            console.print(f"and {report.num_failed - len(report.failures):,} more, in {report.store}/failures")
    if report.decides and report.too_many_failed:
        console.print("more images failed than --max-failures allows; the store is complete without them")


def _show_decoding(console: Console, report: DecodeReport) -> None:
    console.print(f"{report.num_written:,} images written to {report.out_dir} in {_duration(report.elapsed_s)}")
    if report.num_skipped_existing:
        console.print(f"{report.num_skipped_existing:,} files were there already and were left alone")
    if report.num_not_ok:
        console.print(f"{report.num_not_ok:,} rows hold no latents (failed or pending)")
    if report.grid:
        console.print(f"originals above reconstructions: {report.grid}")


def _show_export(console: Console, report: ExportReport) -> None:
    left_out = f", {report.num_not_ok:,} not ok and left out" if report.num_not_ok else ""
    size = f"{report.num_bytes / 1e6:,.1f} MB"
    console.print(f"{report.target} is complete: {report.num_rows:,} rows as {report.format}{left_out}, {size}")
    if not report.num_written_now:
        console.print("nothing to do")
    else:
        console.print(f"{report.num_written_now:,} rows in {_duration(report.elapsed_s)}")
    for note in report.notes:
        console.print(note)


def _show_training(console: Console, report: TrainReport) -> None:
    console.print(f"{report.checkpoint}: step {report.steps:,} after {_duration(report.elapsed_s)}")
    if report.figures:
        table = Table("last figures", "value", box=None, pad_edge=False)
        for name, value in report.figures.items():
            table.add_row(name, _figure(name, value))
        console.print(table)
    if (curves := report.run / "curves.png").exists():
        console.print(f"curves: {curves}")
    if (reconstructions := report.run / "reconstructions").is_dir():
        console.print(f"originals above reconstructions: {reconstructions}")


def _figure(name: str, value: float) -> str:
    """A figure of a training run, with its unit where it has one."""
    if name in ("loader_wait_share", "mfu"):
        return f"{value:.0%}"
    words = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return words + (" dB" if name == "val_psnr" else "")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
