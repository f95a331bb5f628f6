"""`tcae push STORE|MODEL TARGET`."""

import click

from tcae_cli.commands import _options
from tcae_cli.commands._command import command
from tcae_cli.commands._run import run_job
from tcae_cli.reports.push import PushRequest


@command(
    "push",
    examples=[
        ("Upload a store, and a card that says what it holds", "tcae push out.zarr hf://datasets/me/photos-latents"),
        ("Upload the model of a training run", "tcae push runs/mine hf://me/my-autoencoder"),
    ],
)
@click.argument("what", metavar="STORE|MODEL")
@click.argument("target")
@_options.as_json
def push(what: str, target: str, as_json: bool) -> int:
    """Upload a complete store or a checkpoint to the Hugging Face Hub; repeat the command to resume.

    TARGET is hf://datasets/ORG/NAME for a store, and hf://ORG/NAME for a model. It is made if it does not exist, with
    a README.md that says what it holds and how to read it. Log in with `hf auth login`, or set HF_TOKEN.
    """
    request = PushRequest(what=what, target=target)
    from tcae_cli.jobs.push import push_to_hub

    return run_job(push_to_hub, request, as_json=as_json)
