"""`tcae finetune RECIPE --from MODEL`."""

from pathlib import Path
from typing import Any

import click

from tcae_cli.commands._command import command, option
from tcae_cli.commands._options import MODEL
from tcae_cli.commands._training import run_training, training_options


@command(
    "finetune",
    examples=[
        (
            "Train the built-in model further on your images",
            "tcae finetune recipes/tiny.yaml --from tcae-tiny --data photos --out runs/mine",
        ),
        (
            "Train only its decoder, so that cached latents stay valid",
            "tcae finetune recipes/tiny.yaml --from tcae-tiny --freeze encoder --data photos --out runs/decoder",
        ),
    ],
)
@option(
    "--from",
    "parent",
    required=True,
    metavar="MODEL",
    group=MODEL,
    help="Model to start from: a file, a run folder, hf://org/name or a built-in name.",
)
@option(
    "--freeze",
    type=click.Choice(["encoder"]),
    group=MODEL,
    help="Do not train this part: latents stay as they are, and stores stay valid.",
)
@training_options
def finetune(recipe: Path, overrides: tuple[str, ...], parent: str, freeze: str | None, **options: Any) -> int:
    """Train a model further as RECIPE says: on other images, at another size, with other losses.

    The shape of the model stays; of the recipe's section `model`, only image_size may differ.
    """
    from tcae_cli.autoencoders.tcae import read_header
    from tcae_cli.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides, parent=read_header(parent).spec)
    return run_training(loaded, recipe, parent=parent, freeze_encoder=freeze == "encoder", **options)
