"""Options that several commands share."""

import click

device = click.option("--device", metavar="D", help="cpu, cuda or cuda:N  [default: a GPU where there is one]")
as_json = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout.")
batch_size = click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, metavar="N")
workers = click.option(
    "--workers", "num_workers", type=click.IntRange(min=0), metavar="N", help="Decoding processes a rank."
)
