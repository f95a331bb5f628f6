"""`tcae models [NAME]`."""

import click

from tcae_cli.commands import _options
from tcae_cli.commands._command import command
from tcae_cli.commands._run import run_job
from tcae_cli.reports.models import CardRequest


@command(
    "models",
    examples=[
        ("List the families of autoencoders, and a few models of each", "tcae models"),
        ("Show the card of one", "tcae models diffusers:madebyollin/taesd"),
    ],
)
@click.argument("name", required=False)
@_options.as_json
def models(name: str | None, as_json: bool) -> int:
    """List the autoencoders that --model takes, and which of them are cached here; or show the card of one, NAME.

    A card is read from the model's files, which are fetched if no cache holds them.
    """
    from tcae_cli.jobs.models import list_models, show_card

    if name is None:
        return run_job(list_models, None, as_json=as_json)
    return run_job(show_card, CardRequest(name=name), as_json=as_json)
