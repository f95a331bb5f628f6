"""`tcae eval [MODEL]...`."""

from pathlib import Path
from typing import Any, get_args

import click

from tcae_cli.commands import _options
from tcae_cli.commands._run import run_job
from tcae_cli.evaluation.metrics.registry import ALL, METRICS, chosen_metrics
from tcae_cli.evaluation.networks import NETWORKS
from tcae_cli.recipe.choices import Precision, Resize
from tcae_cli.reports.evaluation import EvalRequest
from tcae_cli.reports.report import Tolerance

_METRICS_HELP = f"{', '.join(METRICS)}, or {ALL} that can be computed; repeats."


def _known_metrics(_context: click.Context, _option: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse names that are no metrics before anything is loaded."""
    chosen_metrics(names)
    return names


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--data", help="Originals: a folder, tar shards or an image list.  [default: the store's, or samples]")
@click.option("--store", metavar="STORE", help="Latents to evaluate instead of encoding images.")
@click.option("--reconstructions", metavar="DIR", help="Images to evaluate instead, named after the originals.")
@click.option("--samples", metavar="DIR", help="Generated images to evaluate against --data or --reference.")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    required=True,
    callback=_known_metrics,
    metavar="NAME",
    help=_METRICS_HELP,
)
@click.option("--probe-data", metavar="DATA", help="Labelled images to train probes on.  [default: 4/5 of the data]")
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    metavar="FILE.npz",
    help="Statistics (mu, sigma) to measure rFID or gFID against.  [default: those of --data]",
)
@_options.weights(*NETWORKS)
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="DIR", help="Write a page with tables, plots and pictures."
)
@click.option(
    "--size", type=click.IntRange(min=1), metavar="PIXELS", help="Square to evaluate.  [default: the model's]"
)
@click.option("--resize", type=click.Choice(get_args(Resize)), help="[default: adm; for a store its own]")
@click.option("--precision", type=click.Choice(get_args(Precision)), default="fp32", show_default=True)
@_options.gpus
@_options.device
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, metavar="N")
@_options.one_worker
@_options.max_failures
@_options.as_json
def eval(gpus: int | None, max_failures: str, as_json: bool, **options: Any) -> int:
    """Measure how well MODELs reconstruct images, side by side, and what their latents are like.

    MODEL is a file, a run folder, hf://org/name, diffusers:org/name or a built-in name; tcae-tiny where none is given.
    --store measures latents that are there already, decoded by MODEL or by the one they were made with.
    """
    request = EvalRequest(max_failures=Tolerance.parse(max_failures), **options)
    from tcae_cli.jobs.evaluate import evaluate as job

    if gpus is None:
        return run_job(job, request, as_json=as_json)
    from tcae_cli.runtime.launch import on_gpus

    # The first rank's report has the figures.
    return run_job(on_gpus(job, lambda reports: reports[0], gpus, request.device), request, as_json=as_json)
