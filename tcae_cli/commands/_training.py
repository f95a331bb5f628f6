"""The options of the commands that train, and how they run."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from tcae_cli.commands import _options
from tcae_cli.commands._command import Function, option
from tcae_cli.commands._options import MODEL, RUN, Gpus
from tcae_cli.commands._run import num_ranks, run_job, run_job_on_gpus
from tcae_cli.errors import UsageError
from tcae_cli.recipe.choices import FrozenFeatures, PerceptualNetwork
from tcae_cli.reports.train import TrainRequest
from tcae_cli.reports.train_plan import TrainPlanRequest

if TYPE_CHECKING:
    from tcae_cli.recipe.schema import Recipe

# Those of the recipe's losses, and Inception, which measures reconstructions.
_NETWORKS = (*dict.fromkeys((*get_args(PerceptualNetwork), *get_args(FrozenFeatures))), "inception")
_OPTIONS = (
    click.argument("recipe", type=click.Path(path_type=Path)),
    option(
        "--data",
        group=RUN,
        show_default="the recipe's",
        help='Images to train on: what encode-dataset takes, or "pipe:COMMAND".',
    ),
    option(
        "--val",
        metavar="DATA",
        group=RUN,
        show_default="the recipe's, or some of --data",
        help="Images to measure reconstructions on.",
    ),
    option(
        "--out",
        type=click.Path(path_type=Path),
        group=RUN,
        show_default="runs/ and the recipe's name",
        help="Folder of the run.",
    ),
    option("--resume", is_flag=True, group=RUN, help="Resume from the last checkpoint in the run's folder."),
    option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        group=RUN,
        help="Change a key of the recipe; may be repeated.",
    ),
    _options.sample_fields,
    _options.weights(_NETWORKS, group=MODEL),
    _options.workers(TrainRequest.num_workers),
    _options.gpus,
    _options.device,
    _options.dry_run,
    _options.as_json,
)


def training_options(command: Function) -> Function:
    """Add the recipe and the options of every command that trains."""
    for each in reversed(_OPTIONS):
        command = each(command)
    return command


def run_training(
    recipe: "Recipe",
    path: Path,
    *,
    data: str | None,
    val: str | None,
    gpus: Gpus,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Train as the recipe at `path` says, or say what that would take; return the exit code.

    Raises UsageError if neither the command line nor the recipe names images, which a dry run can do without.
    """
    options["out"] = options["out"] or Path("runs") / path.stem
    no_data = ""
    try:
        request = _request(recipe, path, data, val, options)
    except UsageError as error:
        if not dry_run or data:
            raise
        no_data = str(error)
        request = TrainRequest(recipe=recipe, data="", **options)
    if dry_run:
        from tcae_cli.jobs.plan_train import plan_training

        plan = TrainPlanRequest(train=request, num_ranks=num_ranks(gpus, request.device), no_data=no_data)
        return run_job(plan_training, plan, as_json=as_json)
    from tcae_cli.jobs.train import train as job

    return run_job_on_gpus(job, request, gpus, as_json=as_json)


def _request(recipe: "Recipe", path: Path, data: str | None, val: str | None, options: dict[str, Any]) -> TrainRequest:
    from tcae_cli.recipe.data import choose_images, with_images

    images = choose_images(recipe, str(path), "train", data, os.environ)
    if images is None:
        raise UsageError(f"{path} names no images; name them with --data, or as data.train in the recipe")
    # The recipe's images for validation belong to the ones that it trains on, and not to others.
    validation = choose_images(recipe, str(path), "val", val, os.environ) if val or not data else None
    return TrainRequest(
        recipe=with_images(recipe, images.uri, validation.uri if validation else None),
        data=images.uri,
        data_advice=images.advice,
        val=validation.uri if validation else None,
        val_advice=validation.advice if validation else "",
        **options,
    )
