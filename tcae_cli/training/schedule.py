"""The values that change over a run: learning rate, the teacher's temperature and momentum, and the starts of parts."""

import math

from tcae_cli.recipe.schema import OptimizerSpec, SelfDistillationSpec


def learning_rate(spec: OptimizerSpec, step: int, steps: int) -> float:
    """Return the rate of a step: linear warm-up from 0 to spec.lr, then a cosine to spec.min_lr at the last step."""
    warmup = round(spec.warmup * steps)
    if step < warmup:
        return spec.lr * (step + 1) / warmup
    return _cosine(spec.lr, spec.min_lr, (step - warmup) / max(1, steps - 1 - warmup))


def teacher_temp(spec: SelfDistillationSpec, step: int, steps: int) -> float:
    """Return the temperature for class and patch tokens: linear from the first to the last over the warm-up."""
    first, last = spec.teacher_temp
    return first + (last - first) * min(1.0, step / max(1.0, spec.teacher_temp_warmup * steps))


def teacher_momentum(spec: SelfDistillationSpec, step: int, steps: int) -> float:
    """Return the teacher's momentum: a cosine from spec.teacher_momentum up to 1."""
    return _cosine(spec.teacher_momentum, 1.0, step / steps)


def has_begun(start: float, step: int, steps: int) -> bool:
    """Return whether a share `start` of the run is over."""
    return step >= start * steps


def _cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
