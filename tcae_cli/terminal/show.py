"""Reports on stdout: a few lines and a table, or one JSON object."""

import json

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tcae_cli.reports.decode import DecodeReport
from tcae_cli.reports.encode import EncodeReport
from tcae_cli.reports.evaluation import EvalReport
from tcae_cli.reports.export import ExportReport
from tcae_cli.reports.report import Report
from tcae_cli.reports.store import InfoReport, VerifyReport
from tcae_cli.reports.train import TrainReport
from tcae_cli.terminal.evaluation_tables import show_evaluation
from tcae_cli.terminal.store_tables import show_info, show_verification
from tcae_cli.terminal.words import duration

_WIDE = 400  # characters


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
        console.print(f"{report.num_encoded_now:,} images in {duration(report.elapsed_s)}, {rate:,.1f}/s")
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
            table.add_row(Text(failure.path), failure.stage, Text(failure.error))
        console.print(table)
        if report.num_failed > len(report.failures):
            console.print(f"and {report.num_failed - len(report.failures):,} more, in {report.store}/failures")
    if report.decides and report.too_many_failed:
        console.print("more images failed than --max-failures allows; the store is complete without them")


def _show_decoding(console: Console, report: DecodeReport) -> None:
    console.print(f"{report.num_written:,} images written to {report.out_dir} in {duration(report.elapsed_s)}")
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
        console.print(f"{report.num_written_now:,} rows in {duration(report.elapsed_s)}")
    for note in report.notes:
        console.print(note)


def _show_training(console: Console, report: TrainReport) -> None:
    console.print(f"{report.checkpoint}: step {report.steps:,} after {duration(report.elapsed_s)}")
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
