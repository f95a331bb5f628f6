"""The interface of a metric: what its class says of it, and how it counts images.

To add a metric, write a class in a file of this room and add its line to registry.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tcae_cli.evaluation.candidates import Pairs
from tcae_cli.evaluation.metrics.figure import Figure
from tcae_cli.evaluation.setting import Setting
from tcae_cli.evaluation.subject import Subject
from tcae_cli.evaluation.viewer import Seen, Viewer


@dataclass(frozen=True)
class Need:
    """Something that a metric cannot be computed without."""

    words: str  # for the documentation
    is_met: Callable[[Subject], bool]
    refusal: str = ""  # says why {metric} cannot be computed, and what to do


MODEL = Need(
    "a model",
    lambda subject: bool(subject.models),
    "{metric} is of a model or its latents, and images alone are given; name a model or --store",
)
LATENTS = Need("latents, of a model or a store", MODEL.is_met, MODEL.refusal)
PAIRS = Need(
    "originals and their reconstructions",
    lambda subject: not subject.is_generated,
    "{metric} compares images with their originals, and --samples have none; use gfid or is",
)
GENERATED = Need(
    "generated images",
    lambda subject: subject.is_generated,
    "{metric} is of generated images; name them with --samples",
)
STORE = Need(
    "a store",
    lambda subject: subject.store is not None,
    "{metric} is read from a store of latents; name one with --store",
)
IMAGES = Need("reconstructions or generated images", lambda subject: True)
LABELS = Need("class labels", lambda subject: True)  # whoever needs them says what is wrong with those there are


class Metric(ABC):
    """One metric in one evaluation, of all candidates: it counts batches of images and then gives its figures.

    Every rank has such an object and adds the batches that this rank sees. The tensors of all ranks are then summed,
    so that the first rank has the figures of all images. `number` is a candidate's place in `subject.candidates`.
    """

    name: ClassVar[str]
    figures: ClassVar[tuple[Figure, ...]]  # all that it may give
    needs: ClassVar[tuple[Need, ...]]
    protocol: ClassVar[str]  # how the figures are taken, a sentence without a full stop
    network: ClassVar[str | None] = None  # the one of NETWORKS that it looks through
    options: ClassVar[tuple[str, ...]] = ()  # fields of EvalRequest that have no use without such a metric
    looks_at_images: ClassVar[bool] = True  # False: it can be computed without any
    counts_batches: ClassVar[bool] = True  # False: it has no use for the reconstructions of the images

    def __init__(self, setting: Setting) -> None:
        """Prepare to count. Raises UsageError, SourceError or WeightsError if the metric cannot be computed."""
        self.setting = setting

    @classmethod
    def refusal(cls, subject: Subject) -> str | None:
        """Return the sentence that says why the metric cannot be computed of the subject; None if it can."""
        unmet = next((need for need in cls.needs if not need.is_met(subject)), None)
        return None if unmet is None else unmet.refusal.format(metric=cls.name)

    def protocol_here(self) -> str:
        """Return the protocol with what is particular to this evaluation."""
        return self.protocol

    def add(self, number: int, batch: Pairs) -> None:  # noqa: B027 - a metric may count nothing
        """Count a batch of a candidate."""

    def tensors(self) -> list[Tensor]:
        """Return the tensors that are summed over ranks, in place, once all images have been added."""
        return []

    def after_images(self, viewer: Viewer, seen: Seen) -> None:  # noqa: B027 - most metrics have nothing left to do
        """Do the metric's own work, on all ranks, once all images have been seen and the tensors are summed."""

    @abstractmethod
    def values(self, number: int) -> dict[str, float]:
        """Return a candidate's figures by name, on the first rank."""

    def curves(self, number: int) -> dict[str, list[float]]:
        """Return values of each latent channel of a candidate, by the name of the curve."""
        return {}

    def image_values(self, number: int) -> Tensor | None:
        """Return the value of each image, [n], of a candidate; None where images have no values of their own."""
        return None

    def warnings(self, seen: Seen) -> Iterator[str]:
        """Say what to keep in mind when the figures are read."""
        yield from ()
