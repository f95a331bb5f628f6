"""What a run records beside its checkpoints: its log, its evaluations, its pictures and its curves."""

from pathlib import Path

from tcae_cli.features.inception import find_inception, load_inception
from tcae_cli.recipe.load import dump_recipe
from tcae_cli.runtime import distributed
from tcae_cli.runtime.files import write_atomic
from tcae_cli.sources.source import Source
from tcae_cli.tracking.log import MetricsLog
from tcae_cli.training.run import Run, averaged
from tcae_cli.training.validation import Validation


class Journal:
    """The record of a run, which the first rank writes; every rank calls the same methods.

    Raises SourceError if none of the images for validation can be read, and DiskError if there is no room.
    """

    def __init__(self, run: Run, validation_images: Source) -> None:
        self._run = run
        self._folder: Path = run.request.out
        self._log: MetricsLog | None = None
        self._validation: Validation | None = None
        if distributed.rank() == 0:
            self._validation = _validation(run, validation_images)
            self._log = MetricsLog(self._folder, run.state.step)
            write_atomic(self._folder / "recipe.yaml", dump_recipe(run.recipe).encode())

    def evaluate(self) -> dict[str, float]:
        """Draw reconstructions by the averaged model and return its figures; on other ranks there are none."""
        model = averaged(self._run)
        if self._validation is None:
            return {}
        figures = self._validation.figures(model)
        self._validation.draw(model, self._folder / "reconstructions" / f"step-{self._run.state.step:07d}.png")
        return figures

    def write(self, figures: dict[str, float]) -> None:
        """Append the figures of the last step to the log."""
        if self._log is not None:
            self._log.write(self._run.state.step, figures)

    def draw_curves(self) -> None:
        """Draw the curves of everything logged so far."""
        if self._log is not None:
            from tcae_cli.tracking.curves import draw_curves  # matplotlib takes a second to import

            spec = self._run.recipe.loss.self_distillation
            draw_curves(self._folder, spec.num_prototypes if spec else None)

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()


def _validation(run: Run, images: Source) -> Validation:
    path = find_inception(run.request.weights)
    inception = None if path is None else load_inception(path).to(run.device)
    return Validation(images, run.recipe, run.device, inception, "train" if run.request.val is None else "val")
