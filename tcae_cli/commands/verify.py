"""`tcae verify STORE`."""

from pathlib import Path
from typing import Any

import click

from tcae_cli.commands import _options
from tcae_cli.commands._run import run_job
from tcae_cli.reports.store import VerifyRequest


@click.command()
@click.argument("store")
@click.option("--source", help="Compare every row with the images that are here now.")
@click.option("--model", help="Model to decode with.  [default: the one the store was made with]")
@click.option(
    "--rows", "num_rows", type=click.IntRange(min=0), default=16, show_default=True, metavar="N", help="Rows to decode."
)
@click.option("--picture", type=click.Path(path_type=Path), metavar="PATH", help="[default: STORE-verify.png, here]")
@_options.device
@_options.as_json
def verify(as_json: bool, **options: Any) -> int:
    """Check every shard of STORE, and a sample of its rows against their images. Exit code 1 when something is wrong.

    Nothing is written but the picture: originals above what their latents decode to.
    """
    from tcae_cli.jobs.verify import verify_store

    return run_job(verify_store, VerifyRequest(**options), as_json=as_json)
