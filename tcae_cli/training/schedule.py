"""The learning rate over a run."""

import math

from tcae_cli.recipe.schema import OptimizerSpec


def learning_rate(spec: OptimizerSpec, step: int, steps: int) -> float:
    """Linear warm-up from 0 to spec.lr, then a cosine down to spec.min_lr at the last of `steps`."""
    warmup = round(spec.warmup * steps)
    if step < warmup:
        return spec.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return spec.min_lr + (spec.lr - spec.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
