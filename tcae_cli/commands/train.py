"""`tcae train RECIPE`."""

from pathlib import Path
from typing import Any

from tcae_cli.commands._command import command
from tcae_cli.commands._training import run_training, training_options


@command(
    "train",
    examples=[
        ("Train on a folder of images", "tcae train recipes/imagenet256.yaml --data photos --out runs/mine"),
        (
            "Resume that run after it stopped",
            "tcae train recipes/imagenet256.yaml --data photos --out runs/mine --resume",
        ),
        (
            "Train on tar shards with 8 GPUs, for fewer steps than the recipe says",
            'tcae train recipes/imagenet256.yaml --data "shards/{000..127}.tar" --gpus 8 --set train.steps=10000',
        ),
    ],
)
@training_options
def train(recipe: Path, overrides: tuple[str, ...], **options: Any) -> int:
    """Train the autoencoder that RECIPE, a YAML file, describes."""
    from tcae_cli.recipe.load import load_recipe

    return run_training(load_recipe(recipe, overrides), recipe, **options)
