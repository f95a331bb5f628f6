"""`tcae export STORE TARGET --format F`."""

from typing import Any, get_args

import click

from tcae_cli.commands import _options
from tcae_cli.commands._run import run_job
from tcae_cli.reports.export import ExportFormat, ExportRequest


@click.command()
@click.argument("store")
@click.argument("target")
@click.option("--format", required=True, type=click.Choice(get_args(ExportFormat)), help="The trainer that reads it.")
@click.option("--view", default="latents", show_default=True, help="Which latents: latents_512, ...")
@click.option(
    "--scale",
    type=float,
    metavar="S",
    help="What raw latents are multiplied by, for dc-ae, webdataset and mds.  [default: 1 / std over the store]",
)
@_options.as_json
def export(as_json: bool, **options: Any) -> int:
    """Write the latents of STORE to TARGET as another trainer reads them; repeat the command to go on.

    TARGET is a folder, or a .zip for edm2. What TARGET is and came from is in its tcae_export.json.
    """
    request = ExportRequest(**options)
    from tcae_cli.jobs.export import export_store

    return run_job(export_store, request, as_json=as_json)
