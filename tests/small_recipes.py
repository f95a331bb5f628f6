"""Recipes that train within a second."""

from typing import Any

from tcae_cli.recipe.schema import Recipe

MODEL = {
    "image_size": 64,
    "patch_size": 8,
    "downsampling": 16,  # the PCA of larger blocks takes seconds
    "latent_channels": 8,
    "width": 32,
    "depths": [1, 1],
    "num_heads": 2,
}
HEADS = {"num_prototypes": 32, "head_width": 16, "head_bottleneck": 8, "frozen_last_layer": 0.2}
CROPS = {"global_size": 48, "local_size": 16, "num_local_crops": 2}
GAME = {"discriminator": "patchgan", "discriminator_start": 0.3, "generator_start": 0.5}
FULL = {
    "model": {"pixel_shortcut": False},
    "loss": {"self_distillation": HEADS | CROPS, "adversarial": GAME},
}


def recipe(steps: int = 6, **sections: dict[str, Any]) -> Recipe:
    """Return a recipe for a small model on 64-pixel views, with checkpoints every three steps; sections change keys."""
    settings = {
        "model": {**MODEL, "pixel_shortcut": True},
        "data": {"resize_min": 64, "resize_max": 96},
        "loss": {"perceptual": None},
        "optimizer": {"lr": 1e-3},
        "train": {
            "steps": steps,
            "batch_size": 4,
            "log_every": 1,
            "checkpoint_every": 3,
            "sample_every": 3,
            "precision": "fp32",
        },
    }
    for name, values in sections.items():
        settings[name] = {**settings[name], **values}
    return Recipe.model_validate(settings)
