"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Function = Callable[..., Any]

device = click.option("--device", metavar="D", help="cpu, cuda or cuda:N  [default: a GPU where there is one]")
gpus = click.option(
    "--gpus", type=click.IntRange(min=1), metavar="N", help="Processes to start, one a GPU of this machine."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout.")
batch_size = click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, metavar="N")
workers = click.option(
    "--workers", "num_workers", type=click.IntRange(min=0), metavar="N", help="Decoding processes a rank."
)

_OF_TRAINING = (
    click.argument("recipe", type=click.Path(path_type=Path)),
    click.option("--data", required=True, help='Folder, image list, tars, or "pipe:COMMAND" to train on.'),
    click.option("--val", metavar="DATA", help="Images to measure reconstructions on.  [default: some of --data]"),
    click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/ and the recipe's name]"),
    click.option("--resume", is_flag=True, help="Go on from the run folder's last checkpoint."),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe; repeats."),
    click.option("--weights", multiple=True, metavar="NAME=PATH", help="Weights of a pretrained network; repeats."),
    click.option(
        "--workers",
        "num_workers",
        type=click.IntRange(min=0),
        default=1,
        show_default=True,
        metavar="N",
        help="Decoding processes a rank.",
    ),
    gpus,
    device,
    as_json,
)


def training(command: Function) -> Function:
    """The recipe and the options of every command that trains."""
    for option in reversed(_OF_TRAINING):
        command = option(command)
    return command
