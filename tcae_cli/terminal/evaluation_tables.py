"""Shows the tables of `tcae eval`: the figures side by side, and everything needed to judge them."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tcae_cli.evaluation.metrics.registry import figure_of
from tcae_cli.reports.evaluation import EvalReport, by_reason


def show_evaluation(console: Console, report: EvalReport) -> None:
    """Print the figures, a row each and a column a model, how they were computed, and which could not be."""
    title = ", ".join(each.name for each in report.evaluations)
    if report.num_images:  # none are needed to measure a model's cost
        images = "1 image" if report.num_images == 1 else f"{report.num_images:,} images"
        failed = f", {report.num_failed:,} failed" if report.num_failed else ""
        title += f" on {images} of {report.data}{failed}"
    console.print(Text(title))
    console.print(_figures(report, as_wide_as_needed=not console.is_terminal))
    protocol = Table.grid(padding=(0, 2))
    for name, rule in report.protocol.items():
        protocol.add_row(f"{name}:", Text(rule))
    console.print(protocol)
    for sentence in report.warnings:
        console.print(Text(f"warning: {sentence}"))
    for reason, names in by_reason(report.skipped).items():
        console.print(Text(f"not computed: {names}: {reason}"))
    for failure in report.failures:
        console.print(Text(f"failed: {failure['path']}: {failure['reason']}"))
    if report.num_failed > len(report.failures) > 0:
        console.print(f"and {report.num_failed - len(report.failures):,} more")
    if report.too_many_failed:
        console.print("more images failed than --max-failures allows; the figures are of the others")
    if report.page:
        console.print(Text(f"report: {report.page}"))


def _figures(report: EvalReport, as_wide_as_needed: bool) -> Table:
    table = Table("metric", box=None, pad_edge=False)
    alone = len(report.evaluations) == 1
    for each in report.evaluations:
        heading = Text("value" if alone else each.name)
        table.add_column(heading, min_width=heading.cell_len if as_wide_as_needed else None)
    for name in dict.fromkeys(name for each in report.evaluations for name in each.values):
        figure = figure_of(name)
        table.add_row(name, *(figure.in_words(e.values[name]) if name in e.values else "-" for e in report.evaluations))
    return table
