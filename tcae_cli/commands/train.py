"""`tcae train RECIPE`."""

from pathlib import Path
from typing import Any

import click

from tcae_cli.commands import _options
from tcae_cli.commands._run import run_job
from tcae_cli.recipe.load import load_recipe
from tcae_cli.recipe.schema import Recipe
from tcae_cli.reports.train import TrainRequest


@click.command()
@_options.training
def train(recipe: Path, overrides: tuple[str, ...], out: Path | None, **options: Any) -> int:
    """Train the autoencoder of RECIPE, a YAML file."""
    return run_training(load_recipe(recipe, overrides), out or Path("runs") / recipe.stem, **options)


def run_training(recipe: Recipe, out: Path, *, gpus: int | None, as_json: bool, **options: Any) -> int:
    """Train in this process, or on so many GPUs; returns the exit code."""
    request = TrainRequest(recipe=recipe, out=out, **options)
    from tcae_cli.jobs.train import train as job

    if gpus is None:
        return run_job(job, request, as_json=as_json)
    from tcae_cli.runtime.launch import on_gpus

    # Every rank reports the same run.
    return run_job(on_gpus(job, lambda reports: reports[0], gpus, request.device), request, as_json=as_json)
