"""Detects a collapse of self-distillation from the teacher's figures, and reports each symptom once."""

import math
from collections.abc import Mapping

_PATIENCE = 500  # steps that a symptom must last before it is reported
_HIGH, _LOW = 0.98, 0.02  # of ln k, of the teacher's entropy
_NO_SPREAD = 1e-3  # standard deviation of unit vectors

_STEADIER = (
    "a lower optimizer.lr, a larger train.batch_size, or loss.self_distillation.teacher_momentum 0.9995 "
    "with batches up to 256"
)


class CollapseWatch:
    """Examines the figures of each line of the log. The limits are our choice; docs/training.md explains them."""

    def __init__(self, num_prototypes: int) -> None:
        self._num_prototypes = num_prototypes
        self._since: dict[str, int] = {}  # symptom -> step at which it was first seen
        self._reported: set[str] = set()

    def look(self, steps: int, figures: Mapping[str, float]) -> str | None:
        """Return one sentence for each symptom that has lasted for 500 of the `steps` steps done, or None.

        figures: with `teacher_entropy`, in nats, and `feature_spread`. A symptom that disappears may be reported again.
        """
        symptoms = self._symptoms(figures)
        self._since = {name: self._since.get(name, steps) for name in symptoms}
        self._reported &= symptoms.keys()
        due = [name for name in symptoms if name not in self._reported and steps - self._since[name] >= _PATIENCE]
        self._reported.update(due)
        return " ".join(f"step {steps:,}: {symptoms[name]}" for name in due) or None

    def _symptoms(self, figures: Mapping[str, float]) -> dict[str, str]:
        entropy = figures["teacher_entropy"]
        spread = figures["feature_spread"]
        most = math.log(self._num_prototypes)
        found = {}
        if entropy > _HIGH * most:
            found["uniform"] = (
                f"teacher_entropy has been near ln {self._num_prototypes} = {most:.2f} for {_PATIENCE} steps and is "
                f"{entropy:.2f}: the teacher does not distinguish images, so self-distillation has collapsed; "
                f"try a longer loss.self_distillation.teacher_temp_warmup, {_STEADIER}"
            )
        if entropy < _LOW * most:
            found["one prototype"] = (
                f"teacher_entropy has been near 0 for {_PATIENCE} steps and is {entropy:.2g}, of "
                f"ln {self._num_prototypes} = {most:.2f} at most: the teacher assigns each image to one prototype, "
                f"so self-distillation has collapsed; try a higher loss.self_distillation.teacher_temp, {_STEADIER}"
            )
        if spread < _NO_SPREAD:
            found["no spread"] = (
                f"feature_spread has been below {_NO_SPREAD:g} for {_PATIENCE} steps and is {spread:.2g}: "
                f"all images have the same class token, so self-distillation has collapsed; "
                f"try a longer loss.self_distillation.teacher_temp_warmup, {_STEADIER}"
            )
        return found
