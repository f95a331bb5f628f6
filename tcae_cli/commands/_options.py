"""The options that several commands share, and the groups that help shows them in."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any, Literal, get_args

import click

from tcae_cli.commands._command import Function, option
from tcae_cli.errors import NotFoundError, UsageError
from tcae_cli.recipe.choices import Precision, SampleFields
from tcae_cli.reports.report import Tolerance

Decorator = Callable[[Function], Function]

MODEL = "Model"
IMAGES = "Images"
STORE = "Store"
RUN = "Run"
FIGURES = "Figures"
OUTPUT = "Output"
PROCESSES = "Devices and processes"

_ANY_NUMBER = 2**63 - 1

device = option(
    "--device",
    metavar="D",
    group=PROCESSES,
    show_default="a GPU if there is one",
    help="Device to compute on: cpu, cuda or cuda:N.",
)
Gpus = int | Literal["all"] | None  # None: no process of its own for a GPU


class _NumGpus(click.IntRange):
    """A number of GPUs, or "all"."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        return value if value == "all" else super().convert(value, parameter, context)


gpus = option(
    "--gpus",
    type=_NumGpus(min=1),
    metavar="N|all",
    group=PROCESSES,
    help="Start N processes, each on a GPU of this machine, or one for each GPU there is.",
)
dry_run = option(
    "--dry-run", is_flag=True, help="Estimate work, time, memory and disk from a few batches, and write nothing."
)
as_json = option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout.")


decoder = option("--model", group=MODEL, show_default="the one that made the store", help="Model to decode with.")


def precision(default: Precision | None) -> Decorator:
    """`--precision bf16|fp32`; None chooses by the device."""
    return option(
        "--precision",
        type=click.Choice(get_args(Precision)),
        default=default,
        show_default="bf16 on a GPU, fp32 on the CPU" if default is None else True,
        group=MODEL,
        help="Precision to compute in.",
    )


def batch_size(default: int) -> Decorator:
    """`--batch-size N`."""
    return option(
        "--batch-size",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        metavar="N",
        group=PROCESSES,
        help="Images computed together.",
    )


def workers(default: int | None) -> Decorator:
    """`--workers N`; None chooses by the number of cores."""
    return option(
        "--workers",
        "num_workers",
        type=click.IntRange(min=0),
        default=default,
        show_default="by the number of cores" if default is None else True,
        metavar="N",
        group=PROCESSES,
        help="Processes that decode images, for each rank.",
    )


def max_failures(default: Tolerance) -> Decorator:
    """`--max-failures N|P%`, as a Tolerance."""
    return option(
        "--max-failures",
        type=Tolerance.parse,
        default=str(default),
        show_default=True,
        metavar="N|P%",
        group=IMAGES,
        help="Images that may fail, as a count or a share, before the exit code is 3.",
    )


def sample_fields(command: Function) -> Function:
    """Add `--image`, `--label`, `--caption`, `--split` and `--allow-missing`; the command gets them as `fields`."""

    @wraps(command)
    def with_fields(**options: Any) -> int:
        fields = {name: options.pop(name) for name in ("image", "label", "caption", "split", "allow_missing")}
        return command(fields=SampleFields(**fields), **options)

    added: Function = with_fields
    for name, words in (
        ("split", "Split of a dataset on the Hugging Face Hub, or in a folder written by save_to_disk."),
        ("caption", "Column that holds the captions, or the place that does, such as .txt or metadata.csv."),
        ("label", "Column that holds the labels, or the place that does, such as .cls, dataset.json, folders or none."),
        (
            "image",
            'Column of the images, or their extensions in tars ("jpg", "jpg,seg.png", "*"), where there are several.',
        ),
    ):
        default = "train, on the Hub" if name == "split" else "by type and name"
        added = option(f"--{name}", metavar="NAME", group=IMAGES, show_default=default, help=words)(added)
    missing = option(
        "--allow-missing",
        type=click.IntRange(min=0),
        is_flag=False,
        flag_value=str(_ANY_NUMBER),
        metavar="[N]",
        group=IMAGES,
        show_default="none",
        help="Files of a pattern or a list of tars that may be missing: N, or any number where N is omitted.",
    )
    return missing(added)


def weights(known: Iterable[str], group: str) -> Decorator:
    """`--weights NAME=PATH`, as a dictionary of paths by name, for the pretrained networks that a command can use."""
    names = tuple(known)

    def parse(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> dict[str, Path]:
        paths = {}
        for text in texts:
            name, found, path = text.partition("=")
            if not found or not path:
                raise UsageError(f"--weights {text} is not of the form NAME=PATH")
            if name not in names:
                close = get_close_matches(name, names, n=1)
                advice = f"did you mean {close[0]}?" if close else f"use one of {', '.join(names)}"
                raise UsageError(f"--weights {text} names no network that is used here; {advice}")
            if not Path(path).is_file():
                raise NotFoundError(f"--weights {text}: {path} does not exist, or is no file; correct the path")
            paths[name] = Path(path)
        return paths

    return option(
        "--weights",
        multiple=True,
        callback=parse,
        metavar="NAME=PATH",
        group=group,
        help=f"Weights of a pretrained network, {', '.join(names[:-1])} or {names[-1]}; may be repeated.",
    )
