"""Options that several commands share."""

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from tcae_cli.errors import NotFoundError, UsageError

Function = Callable[..., Any]

device = click.option("--device", metavar="D", help="cpu, cuda or cuda:N  [default: a GPU where there is one]")
gpus = click.option(
    "--gpus", type=click.IntRange(min=1), metavar="N", help="Processes to start, one a GPU of this machine."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout.")
batch_size = click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, metavar="N")
max_failures = click.option(
    "--max-failures", default="1%", show_default=True, help="Images that may fail before the exit code is 3."
)
workers = click.option(
    "--workers", "num_workers", type=click.IntRange(min=0), metavar="N", help="Decoding processes a rank."
)
one_worker = click.option(
    "--workers",
    "num_workers",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    metavar="N",
    help="Decoding processes a rank.",
)


def weights(*known: str) -> Callable[[Function], Function]:
    """`--weights NAME=PATH`, as paths by name, of the networks that a command has a use for."""

    def parse(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> dict[str, Path]:
        return dict(_named_path(text, known) for text in texts)

    return click.option(
        "--weights",
        multiple=True,
        callback=parse,
        metavar="NAME=PATH",
        help=f"Weights of a pretrained network, {', '.join(known[:-1])} or {known[-1]}; repeats.",
    )


def _named_path(text: str, known: tuple[str, ...]) -> tuple[str, Path]:
    name, found, path = text.partition("=")
    if not found or not path:
        raise UsageError(f"--weights {text} is not of the form NAME=PATH")
    if name not in known:
        close = get_close_matches(name, known, n=1)
        advice = f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"
        raise UsageError(f"--weights {text} names no network that is used here; {advice}")
    if not Path(path).is_file():
        raise NotFoundError(f"--weights {text}: {path} does not exist, or is no file; correct the path")
    return name, Path(path)


_OF_TRAINING = (
    click.argument("recipe", type=click.Path(path_type=Path)),
    click.option("--data", required=True, help='Folder, image list, tars, or "pipe:COMMAND" to train on.'),
    click.option("--val", metavar="DATA", help="Images to measure reconstructions on.  [default: some of --data]"),
    click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/ and the recipe's name]"),
    click.option("--resume", is_flag=True, help="Go on from the run folder's last checkpoint."),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe; repeats."),
    weights("lpips-vgg", "squeezenet1_1", "dino-s8", "dino-s16", "inception"),
    one_worker,
    gpus,
    device,
    as_json,
)


def training(command: Function) -> Function:
    """The recipe and the options of every command that trains."""
    for option in reversed(_OF_TRAINING):
        command = option(command)
    return command
