"""`tcae train RECIPE`."""

from pathlib import Path
from typing import Any

import click

from tcae_cli.commands import _options
from tcae_cli.commands._run import run_job
from tcae_cli.errors import UsageError
from tcae_cli.recipe.load import load_recipe
from tcae_cli.report import TrainRequest


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--data", required=True, help="Folder, tar shards or image list to train on.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/ and the recipe's name]")
@click.option("--resume", is_flag=True, help="Go on from the run folder's last checkpoint.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe; repeats.")
@click.option("--weights", multiple=True, metavar="NAME=PATH", help="Weights of a pretrained network; repeats.")
@click.option("--workers", "num_workers", type=click.IntRange(min=0), default=1, show_default=True, metavar="N")
@_options.device
@_options.as_json
def train(
    recipe: Path, out: Path | None, overrides: tuple[str, ...], weights: tuple[str, ...], as_json: bool, **options: Any
) -> int:
    """Train the autoencoder of RECIPE, a YAML file."""
    request = TrainRequest(
        recipe=load_recipe(recipe, overrides),
        out=out or Path("runs") / recipe.stem,
        weights=dict(_named_path(text) for text in weights),
        **options,
    )
    from tcae_cli.jobs.train import train as job

    return run_job(job, request, as_json=as_json)


def _named_path(text: str) -> tuple[str, Path]:
    name, found, path = text.partition("=")
    if not found:
        raise UsageError(f"--weights {text} is not of the form NAME=PATH")
    return name, Path(path)
