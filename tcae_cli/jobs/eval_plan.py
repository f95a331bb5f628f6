"""What has to be measured of whom, and with which networks, for the metrics that were asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import nn

from tcae_cli.autoencoder import ModelCard
from tcae_cli.errors import UsageError, WeightsError
from tcae_cli.eval_report import ALL, EvalRequest
from tcae_cli.features import dinov2, inception
from tcae_cli.features.backbone import load_feature_network
from tcae_cli.features.dinov2 import load_dinov2
from tcae_cli.features.inception import InceptionFeatures, load_inception
from tcae_cli.jobs.eval_candidates import ModelCandidate
from tcae_cli.jobs.eval_measures import (
    FeatureDistance,
    InceptionScore,
    Measure,
    OfFeatures,
    OfLatents,
    OfProbes,
    PerImage,
    Reference,
    of_floats,
    of_model_range,
)
from tcae_cli.jobs.eval_probe import LabelledRows, ProbeFeatures, check_classes, split_rows
from tcae_cli.jobs.eval_statistics import read_statistics
from tcae_cli.jobs.eval_subject import Originals, Subject
from tcae_cli.losses.perceptual import PerceptualDistance
from tcae_cli.metrics import image
from tcae_cli.model.tcae import TCAE

INCEPTION_WIDTH, DINOV2_WIDTH = 2048, 1024


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
    def dinov2(self) -> nn.Module:
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

    def measure(self, new_measure: Callable[[], Measure]) -> None:
        """Give each candidate a measure of its own."""
        for measures in self.measures:
            measures.append(new_measure())

    def reference(self, network: str) -> Reference:
        """What the originals are to a network, one for all candidates and metrics."""
        if network not in self.references:
            module = self.inception if network == inception.NAME else self.dinov2
            width = INCEPTION_WIDTH if network == inception.NAME else DINOV2_WIDTH
            self.references[network] = Reference(module, width)
        return self.references[network]


def make_plan(request: EvalRequest, subject: Subject, device: torch.device) -> Plan:
    """Everything in place to measure. With "all", metrics that cannot be computed are skipped, and it is told why.

    Raises UsageError for a metric that does not suit what is evaluated, WeightsError for a network without weights.
    """
    plan = Plan(request, subject, device)
    for metric in request.wanted:
        try:
            _ADD[metric](plan, metric)
        except (UsageError, WeightsError) as error:
            if ALL not in request.metrics:
                raise
            plan.skipped[metric] = str(error)
        else:
            plan.metrics.add(metric)
    return plan


def _add_rfid(plan: Plan, metric: str) -> None:
    if (known := plan.request.reference) is not None:
        reference = Reference(plan.inception, INCEPTION_WIDTH, read_statistics(known, INCEPTION_WIDTH))
        plan.protocol["rfid against"] = f"the statistics in {known}, whatever images they are of"
    else:
        reference = plan.reference(inception.NAME)
    _add_of_features(plan, plan.inception, lambda: FeatureDistance(metric, INCEPTION_WIDTH, reference))
    plan.protocol[metric] = _INCEPTION_WORDS


def _add_is(plan: Plan, metric: str) -> None:
    _add_of_features(plan, plan.inception, lambda: InceptionScore(plan.inception.logits, plan.num_images))
    plan.protocol[metric] = f"{_INCEPTION_WORDS}; of the reconstructions, mean of torch-fidelity's 10 splits"


def _add_fd_dinov2(plan: Plan, metric: str) -> None:
    reference = plan.reference(dinov2.NAME)
    _add_of_features(plan, plan.dinov2, lambda: FeatureDistance(metric, DINOV2_WIDTH, reference))
    plan.protocol[metric] = "class token of DINOv2 ViT-L/14, images resized to 224 px (bicubic, antialiased)"


def _add_per_image(plan: Plan, metric: str) -> None:
    distance = of_floats(image.METRICS[metric])
    plan.measure(lambda: PerImage(metric, distance, plan.num_images))
    plan.protocol[metric] = _PER_IMAGE_WORDS[metric]


def _add_lpips(plan: Plan, metric: str) -> None:
    network = load_feature_network(metric, plan.request.weights.get(metric), instead="leave that metric away")
    distance = of_model_range(PerceptualDistance(network).to(plan.device))
    plan.measure(lambda: PerImage(metric, distance, plan.num_images))
    plan.protocol[metric] = f"LPIPS 0.1 with {'VGG16' if metric == 'lpips-vgg' else 'AlexNet'}, mean over images"


def _add_of_latents(plan: Plan, metric: str) -> None:
    if not plan.subject.models:
        raise UsageError(f"{metric} is of latents, and --reconstructions are images; give a model or --store")
    for measures, card in zip(plan.measures, plan.subject.cards, strict=True):
        of_latents = next((measure for measure in measures if isinstance(measure, OfLatents)), None)
        if of_latents is None:
            of_latents = OfLatents(card.latent_channels)
            measures.append(of_latents)
        of_latents.metrics.add(metric)
    plan.protocol[metric] = _OF_LATENTS_WORDS[metric]


def _add_ifid(plan: Plan, metric: str) -> None:
    if plan.subject.store is None:
        raise UsageError(f"{metric} is read from a store of latents; name one with --store")
    plan.reference(inception.NAME)
    plan.protocol[metric] = (
        f"{_INCEPTION_WORDS}; each latent halfway (slerp) to one of its 10 most similar in the store, decoded; seed 0"
    )


def _add_probe(plan: Plan, metric: str) -> None:
    if not plan.subject.models:
        raise UsageError(f"{metric} is of latents, and --reconstructions are images; give a model or --store")
    if plan.request.probe_data and plan.subject.store:
        raise UsageError("--probe-data is encoded by a model, and a store's latents are there already; leave it away")
    check_classes(*plan.probe_sides)
    for measures, (model, card) in zip(plan.measures, plan.models_and_cards, strict=True):
        measures.append(
            OfProbes(new_probe_features(model, card, plan.num_images, from_store=plan.subject.store is not None))
        )
    trained_on = plan.request.probe_data or "four of five images of each class, measured on the fifth"
    plan.protocol[metric] = f"linear, on mean patch tokens and on mean latents, trained on {trained_on}"


def _add_cost(plan: Plan, metric: str) -> None:
    if not plan.subject.models:
        raise UsageError(f"{metric} is of a model, and --reconstructions are images; give a model")
    name = torch.cuda.get_device_name(plan.device) if plan.device.type == "cuda" else "the CPU"
    plan.protocol[metric] = f"on {name}, {plan.request.precision}, batches of {plan.request.batch_size}"


def _labelled(images: Originals, rows: np.ndarray) -> LabelledRows:
    return LabelledRows(data=images.name, labels=images.labels(), class_names=images.source.class_names, rows=rows)


def new_probe_features(
    model: ModelCandidate, card: ModelCard, num_images: int, *, from_store: bool = False
) -> ProbeFeatures:
    """Room for what a candidate makes of so many images; only our own models tell their tokens, and no store does."""
    width = model.model.spec.width if isinstance(model.model, TCAE) and not from_store else None
    return ProbeFeatures(num_images, card.latent_channels, width)


def _add_of_features(plan: Plan, network: nn.Module, new: Callable[[], FeatureDistance | InceptionScore]) -> None:
    """Give each candidate a measure on features that others may use as well."""
    for measures in plan.measures:
        on_it = next((m for m in measures if isinstance(m, OfFeatures) and m.network is network), None)
        if on_it is None:
            on_it = OfFeatures(network)
            measures.append(on_it)
        on_it.measures.append(new())


_INCEPTION_WORDS = f"FID Inception of 2015 (sha256 {inception.SHA256[:8]}), TensorFlow 1's resize to 299 px"
_PER_IMAGE_WORDS = {"psnr": "mean over images", "ssim": "11-px Gaussian, valid region, mean over images"}
_OF_LATENTS_WORDS = {
    "effective-rank": "of the channels, over all positions, centred",
    "channels": "over all positions; dead: deviation under 1/100 of the median's",
}
_ADD: dict[str, Callable[[Plan, str], None]] = {
    "rfid": _add_rfid,
    "fd-dinov2": _add_fd_dinov2,
    "is": _add_is,
    "psnr": _add_per_image,
    "ssim": _add_per_image,
    "lpips-vgg": _add_lpips,
    "lpips-alex": _add_lpips,
    "effective-rank": _add_of_latents,
    "channels": _add_of_latents,
    "ifid": _add_ifid,
    "probe": _add_probe,
    "cost": _add_cost,
}
