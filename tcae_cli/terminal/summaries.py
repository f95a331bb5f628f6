"""Shows the summaries that encode-dataset, decode, export and training end with."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tcae_cli.reports.decode import DecodeReport
from tcae_cli.reports.described import described_words
from tcae_cli.reports.encode import EncodeReport, UpdateReport
from tcae_cli.reports.export import ExportReport
from tcae_cli.reports.failure import apart_words
from tcae_cli.reports.push import PushReport
from tcae_cli.reports.train import TrainReport
from tcae_cli.terminal.words import data_size, duration


def show_encoding(console: Console, report: EncodeReport) -> None:
    """Print the state of the store, the time that each stage was busy, and the failures."""
    rows = f"{report.num_ok:,} rows ok, {report.num_failed:,} failed"
    if not report.decides:
        others = "" if report.complete else "; others are still at work, or yet to be started"
        console.print(f"{report.store}: this process has done its part{others}")
    elif not report.num_encoded_now:
        console.print(f"{report.store} is complete: {rows}; nothing to do")
    else:
        console.print(f"{report.store} is complete: {rows}, {report.bytes_on_disk / 1e6:,.1f} MB")
    if report.complete:
        console.print(Text(described_words(report.num_rows, report.labels_from, report.captions_from)))
    for sentence in apart_words(report.num_repaired, report.num_too_small).values():
        console.print(sentence)
    if report.num_encoded_now:
        _show_stages(console, report)
    if report.num_clipped:
        console.print(f"{report.num_clipped:,} values were clipped to the range of the int8 scales")
    if report.failures:
        table = Table("failed", "stage", "reason", box=None, pad_edge=False)
        for failure in report.failures:
            table.add_row(Text(failure.path), failure.stage, Text(failure.error))
        console.print(table)
        num_more = report.num_failed - len(report.failures)
        if num_more > 0:
            console.print(f"and {num_more:,} more, in {report.store}/failures")
    if report.decides and report.too_many_failed:
        console.print("more images failed than --max-failures allows; the store is complete without them")


def show_update(console: Console, report: UpdateReport) -> None:
    """Print how many labels and captions were brought up to date."""
    if report.updated:
        classes = f", {report.num_classes:,} classes" if report.num_classes else ""
        console.print(
            f"{report.store}: {report.num_labels:,} labels and {report.num_captions:,} captions of {report.num_rows:,} "
            f"rows were updated{classes}"
        )
    else:
        console.print(f"{report.store}: labels and captions are those of the source; nothing to do")
    if report.num_new:
        console.print(f"{report.num_new:,} images of the source are not in the store; --append adds them")


def _show_stages(console: Console, report: EncodeReport) -> None:
    rate = report.num_encoded_now / report.elapsed_s
    console.print(
        f"{report.num_encoded_now:,} images in {duration(report.elapsed_s)}, {rate:,.1f}/s; "
        f"start-up took {duration(report.startup_s)} of it"
    )
    table = Table("stage", "busy", "share of the time", box=None, pad_edge=False)
    for stage, seconds in report.stage_seconds.items():
        mark = "  <- slowest" if stage == report.slowest_stage else ""
        table.add_row(stage, f"{seconds:,.1f} s", f"{seconds / report.elapsed_s:.0%}{mark}")
    console.print(table)


def show_decoding(console: Console, report: DecodeReport) -> None:
    """Print how many images were written, and which were not and why."""
    console.print(f"{report.num_written:,} images written to {report.out_dir} in {duration(report.elapsed_s)}")
    if report.num_skipped_existing:
        console.print(f"{report.num_skipped_existing:,} files existed already and were kept")
    if report.num_not_ok:
        console.print(f"{report.num_not_ok:,} rows hold no latents (failed, too small or pending)")
    if report.grid:
        console.print(f"originals above reconstructions: {report.grid}")


def show_export(console: Console, report: ExportReport) -> None:
    """Print what the export holds, and the notes for the trainer that will read it."""
    omitted = f", {report.num_not_ok:,} not ok and omitted" if report.num_not_ok else ""
    size = f"{report.num_bytes / 1e6:,.1f} MB"
    console.print(f"{report.target} is complete: {report.num_rows:,} rows as {report.format}{omitted}, {size}")
    if report.num_written_now:
        console.print(f"{report.num_written_now:,} rows in {duration(report.elapsed_s)}")
    else:
        console.print("nothing to do")
    for note in report.notes:
        console.print(note)


def show_push(console: Console, report: PushReport) -> None:
    """Print where the store or the model is read, how much was uploaded, and whether its card was written."""
    console.print(f"{report.what} is at {report.address}: {report.num_files:,} files, {data_size(report.num_bytes)}")
    if report.num_uploaded:
        console.print(f"{report.num_uploaded:,} files uploaded in {duration(report.elapsed_s)}")
    else:
        console.print("nothing to do")
    if report.card_kept:
        console.print(f"the README.md at {report.page} was written by others, and was kept")
    else:
        console.print(f"state the licence in the README.md at {report.page}")


def show_training(console: Console, report: TrainReport) -> None:
    """Print where the checkpoint is, the last figures with their units, and where the pictures are."""
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
    """Return a figure of a training run in words, with its unit if it has one."""
    if name in ("loader_wait_share", "mfu"):
        return f"{value:.0%}"
    words = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{words} dB" if name == "val_psnr" else words
