"""Shows the report of `tcae weights`."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tcae_cli.reports.weights import WeightsReport


def show_weights(console: Console, report: WeightsReport) -> None:
    """Print a row for each network, and where its weights are, or where they are published."""
    table = Table("network", "used for", "licence", "size", "weights", box=None, pad_edge=False)
    for file in report.files:
        size = f"{file.size_bytes / 2**20:,.1f} MiB" if file.size_bytes else "unknown"
        where = file.path or f"not cached; {file.url}"
        table.add_row(file.name, file.used_for, file.licence, size, Text(where))
    console.print(table)
    shipped: dict[str, list[str]] = {}
    for file in report.files:
        if file.shipped:
            shipped.setdefault(file.shipped, []).append(file.name)
    for weights, names in shipped.items():
        console.print(f"{' and '.join(names)}: with {weights}; nothing to fetch")
