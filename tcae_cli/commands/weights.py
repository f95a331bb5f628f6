"""`tcae weights [--fetch] [NAME]...`."""

import click

from tcae_cli.commands import _options
from tcae_cli.commands._command import command, option
from tcae_cli.commands._options import MODEL
from tcae_cli.commands._run import run_job
from tcae_cli.reports.weights import WeightsRequest


@command(
    "weights",
    examples=[
        ("List the pretrained networks, and which of them are cached", "tcae weights"),
        ("Fetch two, before a job on machines without a network", "tcae weights --fetch lpips-vgg dino-s8"),
    ],
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@option("--fetch", is_flag=True, group=MODEL, help="Fetch the weights that no cache holds.")
@_options.as_json
def weights(names: tuple[str, ...], fetch: bool, as_json: bool) -> int:
    """List the pretrained networks that losses and metrics look through: those named, or all.

    The other commands fetch what they need when they need it, unless HF_HUB_OFFLINE or TCAE_OFFLINE is 1. Files are
    kept in the cache of torch's hub, and taken from there and from Hugging Face's cache.
    """
    from tcae_cli.jobs.weights import list_weights

    return run_job(list_weights, WeightsRequest(names=names, fetch=fetch), as_json=as_json)
