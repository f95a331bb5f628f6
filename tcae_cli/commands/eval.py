"""`tcae eval [MODEL]...`."""

from pathlib import Path
from typing import Any, get_args

import click

from tcae_cli.commands import _options
from tcae_cli.commands._command import command, option
from tcae_cli.commands._options import FIGURES, IMAGES, OUTPUT, Gpus
from tcae_cli.commands._run import run_job_on_gpus
from tcae_cli.evaluation.metrics.registry import ALL, METRICS, chosen_metrics
from tcae_cli.evaluation.networks import NETWORKS
from tcae_cli.recipe.choices import DEFAULT_MODEL, Resize
from tcae_cli.reports.evaluation import EvalRequest

_HELP = f"""Measure how well each MODEL reconstructs images, side by side, and describe its latents.

MODEL is a file, a run folder, hf://org/name, diffusers:org/name or a built-in name; it is {DEFAULT_MODEL} if none is
given. With --store, existing latents are evaluated: decoded by MODEL, or by the model that made them.
"""


def _known_metrics(_context: click.Context, _option: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse names that are no metrics before anything is loaded."""
    chosen_metrics(names)
    return names


@command(
    "eval",
    help=_HELP,
    examples=[
        ("Measure the reconstructions of a model", "tcae eval runs/mine --data photos --metric psnr --metric ssim"),
        (
            "Compare two models, and write a page with pictures",
            "tcae eval runs/mine tcae-tiny --data photos --metric all --report page",
        ),
        ("Evaluate the latents of a store", "tcae eval --store latents.zarr --metric psnr --metric effective-rank"),
    ],
)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@option(
    "--metric",
    "metrics",
    multiple=True,
    required=True,
    callback=_known_metrics,
    metavar="NAME",
    group=FIGURES,
    help=f"{', '.join(METRICS)}, or {ALL} that can be computed; may be repeated.",
)
@option(
    "--reference",
    type=click.Path(path_type=Path),
    metavar="FILE.npz",
    group=FIGURES,
    show_default="those of --data",
    help="Statistics (mu, sigma) to measure rFID or gFID against.",
)
@option(
    "--probe-data",
    metavar="DATA",
    group=FIGURES,
    show_default="4/5 of the data",
    help="Labelled images to train probes on.",
)
@_options.weights(NETWORKS, group=FIGURES)
@option(
    "--data",
    group=IMAGES,
    show_default="the store's, or samples",
    help="Originals: a folder, tar shards or an image list.",
)
@option("--store", metavar="STORE", group=IMAGES, help="Evaluate the latents of this store instead of encoding images.")
@option(
    "--reconstructions",
    metavar="DIR",
    group=IMAGES,
    help="Evaluate these images, named after the originals, instead of decoding.",
)
@option(
    "--samples",
    metavar="DIR|FILE.npz",
    group=IMAGES,
    help="Evaluate these generated images against --data or --reference.",
)
@option(
    "--size",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    group=IMAGES,
    show_default="the model's",
    help="Side of the square to evaluate at.",
)
@option(
    "--resize",
    type=click.Choice(get_args(Resize)),
    group=IMAGES,
    show_default="adm, or the store's own",
    help="How images are resized.",
)
@_options.sample_fields
@_options.max_failures(EvalRequest.max_failures)
@_options.precision(EvalRequest.precision)
@_options.gpus
@_options.device
@_options.batch_size(EvalRequest.batch_size)
@_options.workers(EvalRequest.num_workers)
@option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="DIR",
    group=OUTPUT,
    help="Write a page with tables, plots and pictures into this folder.",
)
@_options.as_json
def eval(gpus: Gpus, as_json: bool, **options: Any) -> int:
    request = EvalRequest(**options)
    from tcae_cli.jobs.evaluate import evaluate as job

    return run_job_on_gpus(job, request, gpus, as_json=as_json)
