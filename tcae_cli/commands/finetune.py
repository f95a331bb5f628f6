"""`tcae finetune RECIPE --from MODEL`."""

from pathlib import Path
from typing import Any

import click

from tcae_cli.commands import _options
from tcae_cli.commands.train import run_training
from tcae_cli.recipe.load import load_recipe


@click.command()
@click.option(
    "--from", "parent", required=True, metavar="MODEL", help="File, run folder, hf://org/name or built-in name."
)
@click.option("--freeze", type=click.Choice(["encoder"]), help="Leave its latents as they are: stores stay valid.")
@_options.training
def finetune(
    recipe: Path, overrides: tuple[str, ...], out: Path | None, parent: str, freeze: str | None, **options: Any
) -> int:
    """Train MODEL further as RECIPE says: on other images, at another size, with other losses.

    The model's shape is MODEL's; of the recipe's section `model`, image_size alone may differ.
    """
    from tcae_cli.autoencoders.tcae import read_header

    loaded = load_recipe(recipe, overrides, parent=read_header(parent).spec)
    out = out or Path("runs") / recipe.stem
    return run_training(loaded, out, parent=parent, freeze_encoder=freeze == "encoder", **options)
