"""What linear probes are trained and measured on: the images evaluated, and others to train on where some are given."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tcae_cli.evaluation.measures import OfProbes
from tcae_cli.evaluation.metrics.probe import LabelledRows, ProbeFeatures, probe_figures
from tcae_cli.evaluation.plan import Plan, new_probe_features
from tcae_cli.evaluation.viewer import Viewer
from tcae_cli.runtime.process_group import add_over_ranks


@dataclass(frozen=True)
class ProbeData:
    """Everything probes need, of each candidate."""

    train: LabelledRows
    val: LabelledRows
    train_features: list[ProbeFeatures]
    val_features: list[ProbeFeatures]
    device: torch.device

    def figures(self, number: int) -> dict[str, float]:
        """Accuracies of probes trained on a candidate's features. Raises as probe_figures."""
        train, val = self.train_features[number], self.val_features[number]
        return probe_figures(self.train, train, self.val, val, self.device)


def look_at_probe_data(plan: Plan, viewer: Viewer) -> ProbeData:
    """Features on all ranks, once those of the images evaluated are there; other images to train on are encoded now."""
    train, val = plan.probe_sides
    val_features = [m.features for measures in plan.measures for m in measures if isinstance(m, OfProbes)]
    others = plan.subject.probe_data
    if others is None:
        return ProbeData(train, val, val_features, val_features, plan.device)

    train_features = [new_probe_features(model, card, len(others.rows)) for model, card in plan.models_and_cards]

    def see(positions: Tensor, images: Tensor) -> None:
        for model, features in zip(plan.subject.models, train_features, strict=True):
            encoded = model.encode(images)
            features.add(positions, encoded.latents, encoded.tokens)

    viewer.show("encode probe data", others, see)
    for features in train_features:
        add_over_ranks(features.tensors())
    return ProbeData(train, val, train_features, val_features, plan.device)
