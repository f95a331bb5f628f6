"""Whether self-distillation has collapsed: what the teacher's figures look like then, said once, in words."""

import math
from collections.abc import Mapping

_PATIENCE = 500  # steps that a figure may look collapsed before it is said
_HIGH, _LOW = 0.98, 0.02  # of ln k, of the teacher's entropy
_NO_SPREAD = 1e-3  # standard deviation of unit vectors

_STEADIER = (
    "a lower optimizer.lr, a larger train.batch_size, or loss.self_distillation.teacher_momentum 0.9995 "
    "with batches up to 256"
)


class CollapseWatch:
    """Looks at the figures of each line of the log. Source of the limits: TRAINING.md section 6."""

    def __init__(self, num_prototypes: int) -> None:
        self._num_prototypes = num_prototypes
        self._since: dict[str, int] = {}  # step at which a symptom was first seen
        self._said: set[str] = set()

    def look(self, steps: int, figures: Mapping[str, float]) -> str | None:
        """What to tell the user after `steps` steps: one sentence a symptom that has held for 500, or None.

        figures: with `teacher_entropy`, in nats, and `feature_spread`. A symptom is told again only after it was gone.
        """
        symptoms = self._symptoms(figures)
        self._since = {name: self._since.get(name, steps) for name in symptoms}
        self._said &= symptoms.keys()
        due = [name for name in symptoms if name not in self._said and steps - self._since[name] >= _PATIENCE]
        self._said.update(due)
        return " ".join(f"step {steps:,}: {symptoms[name]}" for name in due) or None

    def _symptoms(self, figures: Mapping[str, float]) -> dict[str, str]:
        entropy, spread, most = figures["teacher_entropy"], figures["feature_spread"], math.log(self._num_prototypes)
        found = {}
        if entropy > _HIGH * most:
            found["uniform"] = (
                f"teacher_entropy has been near ln {self._num_prototypes} = {most:.2f} for {_PATIENCE} steps and is "
                f"{entropy:.2f}: the teacher tells no images apart, self-distillation has collapsed; "
                f"try a longer loss.self_distillation.teacher_temp_warmup, {_STEADIER}"
            )
        if entropy < _LOW * most:
            found["one prototype"] = (
                f"teacher_entropy has been near 0 for {_PATIENCE} steps and is {entropy:.2g}, of "
                f"ln {self._num_prototypes} = {most:.2f} at most: the teacher puts all of an image on one prototype, "
                f"self-distillation has collapsed; try a higher loss.self_distillation.teacher_temp, {_STEADIER}"
            )
        if spread < _NO_SPREAD:
            found["no spread"] = (
                f"feature_spread has been below {_NO_SPREAD:g} for {_PATIENCE} steps and is {spread:.2g}: "
                f"all images have the same class token, self-distillation has collapsed; "
                f"try a longer loss.self_distillation.teacher_temp_warmup, {_STEADIER}"
            )
        return found
