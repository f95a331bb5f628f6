"""`tcae info STORE`."""

import click

from tcae_cli.commands import _options
from tcae_cli.commands._run import run_job
from tcae_cli.reports.store import InfoRequest


@click.command()
@click.argument("store")
@_options.as_json
def info(store: str, as_json: bool) -> int:
    """Show what STORE is, how far it is, what failed, and its statistics. Nothing is written."""
    from tcae_cli.jobs.info import describe_store

    return run_job(describe_store, InfoRequest(store=store), as_json=as_json)
