"""`tcae eval [MODEL]`."""

from typing import Any

import click

from tcae_cli.commands import _options
from tcae_cli.commands._run import run_job
from tcae_cli.report import EvalRequest


@click.command()
@click.argument("model", default="tcae-tiny")
@click.option("--data", required=True, help="Folder, tar shards or image list to reconstruct.")
@click.option(
    "--metric", "metrics", multiple=True, required=True, metavar="NAME", help="psnr or ssim; repeat for more."
)
@click.option("--resize", type=click.Choice(["torch", "adm"]), default="adm", show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, metavar="N")
@click.option("--workers", "num_workers", type=click.IntRange(min=0), default=1, show_default=True, metavar="N")
@_options.device
@_options.as_json
def eval(as_json: bool, **options: Any) -> int:
    """Measure how well MODEL (default: tcae-tiny) reconstructs the images of a source."""
    request = EvalRequest(**options)
    from tcae_cli.jobs.evaluate import evaluate

    return run_job(evaluate, request, as_json=as_json)
