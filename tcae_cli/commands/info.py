"""`tcae info STORE`."""

import click

from tcae_cli.commands import _options
from tcae_cli.commands._command import command
from tcae_cli.commands._run import run_job
from tcae_cli.reports.store import InfoRequest


@command(
    "info",
    examples=[
        ("Show a store on one screen", "tcae info latents.zarr"),
        ("Print the same for a script", "tcae info s3://bucket/latents.zarr --json"),
    ],
)
@click.argument("store")
@_options.as_json
def info(store: str, as_json: bool) -> int:
    """Show what STORE holds, how much of it is finished, which rows failed, and its statistics.

    Nothing is written.
    """
    from tcae_cli.jobs.info import describe_store

    return run_job(describe_store, InfoRequest(store=store), as_json=as_json)
