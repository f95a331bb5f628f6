"""What has to be measured of whom, and with which networks, for the metrics that were asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from tcae_cli.autoencoders.by_name import ModelCard
from tcae_cli.errors import UsageError
from tcae_cli.evaluation.candidates import ModelCandidate
from tcae_cli.evaluation.measures import Measure, Reference
from tcae_cli.evaluation.metrics.probe import LabelledRows, ProbeFeatures, split_rows
from tcae_cli.evaluation.statistics import read_statistics
from tcae_cli.evaluation.subject import Originals, Subject
from tcae_cli.features import dinov2, inception
from tcae_cli.features.dinov2 import Dinov2Features, load_dinov2
from tcae_cli.features.inception import InceptionFeatures, load_inception
from tcae_cli.model.tcae import TCAE
from tcae_cli.reports.evaluation import EvalRequest


@dataclass
class Plan:
    """Measures of each candidate, what they share, and how figures come about, in words."""

    request: EvalRequest
    subject: Subject
    device: torch.device
    measures: list[list[Measure]] = field(init=False)  # of each candidate
    references: dict[str, Reference] = field(default_factory=dict)  # by network
    protocol: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    metrics: set[str] = field(default_factory=set)  # that are computed

    def __post_init__(self) -> None:
        self.measures = [[] for _ in self.subject.candidates]

    @cached_property
    def inception(self) -> InceptionFeatures:
        """Raises WeightsError without its weights."""
        return load_inception(self.request.weights.get(inception.NAME)).to(self.device)

    @cached_property
    def dinov2(self) -> Dinov2Features:
        """Raises WeightsError without its weights."""
        return load_dinov2(self.request.weights.get(dinov2.NAME)).to(self.device)

    @property
    def num_images(self) -> int:
        """That are to be looked at."""
        return len(self.subject.originals.rows) if self.subject.originals else 0

    @property
    def models_and_cards(self) -> list[tuple[ModelCandidate, ModelCard]]:
        """Of each candidate that has a model."""
        return list(zip(self.subject.models, self.subject.cards, strict=True))

    @cached_property
    def probe_sides(self) -> tuple[LabelledRows, LabelledRows]:
        """What probes are trained on, and what they are measured on."""
        data, others = self.subject.originals, self.subject.probe_data
        assert data is not None
        if others is None:
            train_rows, val_rows = split_rows(data.labels())
            return _labelled(data, train_rows), _labelled(data, val_rows)
        return _labelled(others, np.arange(len(others.rows))), _labelled(data, np.arange(len(data.rows)))

    @cached_property
    def given(self) -> Reference | None:
        """What the Inception made of others' images, where statistics of it are given."""
        path = self.request.reference
        return None if path is None else Reference(self.inception, read_statistics(path, self.inception.width))

    @cached_property
    def real(self) -> Reference:
        """What the Inception makes of the images that generated ones are compared with."""
        if self.given is not None:
            return self.given
        if self.subject.real is None:
            raise UsageError("gfid needs real images or statistics of them; give --data or --reference")
        return Reference(self.inception)

    def measure(self, new_measure: Callable[[], Measure]) -> None:
        """Give each candidate a measure of its own."""
        for measures in self.measures:
            measures.append(new_measure())

    def reference(self, network: str) -> Reference:
        """What the originals are to a network, one for all candidates and metrics."""
        if network not in self.references:
            module = self.inception if network == inception.NAME else self.dinov2
            self.references[network] = Reference(module)
        return self.references[network]


def new_probe_features(
    model: ModelCandidate, card: ModelCard, num_images: int, *, from_store: bool = False
) -> ProbeFeatures:
    """Room for what a candidate makes of so many images; only our own models tell their tokens, and no store does."""
    width = model.model.spec.width if isinstance(model.model, TCAE) and not from_store else None
    return ProbeFeatures(num_images, card.latent_channels, width)


def _labelled(images: Originals, rows: np.ndarray) -> LabelledRows:
    return LabelledRows(data=images.name, labels=images.labels(), class_names=images.source.class_names, rows=rows)
