"""Each metric's way into the plan: what it needs, what it measures, and how that is told."""

from collections.abc import Callable

import torch

from tcae_cli.errors import SourceError, UsageError, WeightsError
from tcae_cli.evaluation.candidates import SamplesCandidate
from tcae_cli.evaluation.measures import (
    FeatureDistance,
    FeatureNetwork,
    InceptionScore,
    OfFeatures,
    OfLatents,
    OfProbes,
    PerImage,
    of_floats,
    of_model_range,
)
from tcae_cli.evaluation.metrics.probe import check_classes
from tcae_cli.evaluation.plan import Plan, new_probe_features
from tcae_cli.evaluation.subject import Subject
from tcae_cli.features import dinov2, inception
from tcae_cli.features.backbone import load_feature_network
from tcae_cli.losses.perceptual import PerceptualDistance
from tcae_cli.metrics import image
from tcae_cli.model.tcae import TCAE
from tcae_cli.reports.evaluation import ALL, EvalRequest


def make_plan(request: EvalRequest, subject: Subject, device: torch.device) -> Plan:
    """Everything in place to measure. With "all", metrics that cannot be computed are skipped, and it is told why.

    Raises UsageError for a metric that does not suit what is evaluated, WeightsError for a network without weights.
    """
    plan = Plan(request, subject, device)
    if request.reference is not None:
        plan.protocol["reference"] = f"the statistics in {request.reference}, whatever images they are of"
    for metric in request.wanted:
        try:
            _refuse_unfit(metric, subject)
            _ADD[metric](plan, metric)
        except (UsageError, WeightsError, SourceError) as error:
            if ALL not in request.metrics:
                raise
            plan.skipped[metric] = str(error)
        else:
            plan.metrics.add(metric)
    if not plan.metrics:
        raise UsageError(f"--metric {ALL}: nothing can be computed; {'; '.join(dict.fromkeys(plan.skipped.values()))}")
    return plan


def _refuse_unfit(metric: str, subject: Subject) -> None:
    """Raise UsageError for a metric of something that is not there."""
    generated = isinstance(subject.candidates[0], SamplesCandidate)
    if metric in _OF_MODELS and not subject.models:
        raise UsageError(f"{metric} is of a model or its latents, and images alone are given; name a model or --store")
    if metric in _OF_PAIRS and generated:
        raise UsageError(f"{metric} compares images with their originals, and --samples have none; use gfid or is")
    if metric == "gfid" and not generated:
        raise UsageError("gfid is of generated images; name them with --samples")
    if metric == "ifid" and subject.store is None:
        raise UsageError("ifid is read from a store of latents; name one with --store")
    if metric == "ifid" and subject.store is not None and len(subject.store.ok_rows) < 2:
        raise UsageError("ifid goes from one latent to another, and the store has one; encode more images")


def _add_rfid(plan: Plan, metric: str) -> None:
    reference = plan.given or plan.reference(inception.NAME)
    _add_of_features(plan, plan.inception, lambda: FeatureDistance(metric, reference))
    plan.protocol[metric] = _INCEPTION_WORDS


def _add_gfid(plan: Plan, metric: str) -> None:
    real = plan.real
    _add_of_features(plan, plan.inception, lambda: FeatureDistance(metric, real))
    plan.protocol[metric] = f"{_INCEPTION_WORDS}; against {plan.request.reference or plan.request.data}"


def _add_is(plan: Plan, metric: str) -> None:
    _add_of_features(plan, plan.inception, lambda: InceptionScore(plan.inception.logits, plan.num_images))
    plan.protocol[metric] = f"{_INCEPTION_WORDS}; mean of torch-fidelity's 10 splits"


def _add_fd_dinov2(plan: Plan, metric: str) -> None:
    reference = plan.reference(dinov2.NAME)
    _add_of_features(plan, plan.dinov2, lambda: FeatureDistance(metric, reference))
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
    for measures, card in zip(plan.measures, plan.subject.cards, strict=True):
        of_latents = next((measure for measure in measures if isinstance(measure, OfLatents)), None)
        if of_latents is None:
            of_latents = OfLatents(card.latent_channels)
            measures.append(of_latents)
        of_latents.metrics.add(metric)
    plan.protocol[metric] = _OF_LATENTS_WORDS[metric]


def _add_ifid(plan: Plan, metric: str) -> None:
    plan.reference(inception.NAME)
    plan.protocol[metric] = (
        f"{_INCEPTION_WORDS}; each latent halfway (slerp) to one of its 10 most similar in the store, decoded; seed 0"
    )


def _add_probe(plan: Plan, metric: str) -> None:
    if plan.request.probe_data and plan.subject.store:
        raise UsageError("--probe-data is encoded by a model, and a store's latents are there already; leave it away")
    check_classes(*plan.probe_sides)
    for measures, (model, card) in zip(plan.measures, plan.models_and_cards, strict=True):
        measures.append(
            OfProbes(new_probe_features(model, card, plan.num_images, from_store=plan.subject.store is not None))
        )
    trained_on = plan.request.probe_data or "four of five images of each class, measured on the fifth"
    has_tokens = plan.subject.store is None and any(isinstance(m.model, TCAE) for m in plan.subject.models)
    inputs = "mean patch tokens and on mean latents" if has_tokens else "mean latents"
    plan.protocol[metric] = f"linear, on {inputs}, trained on {trained_on}; best of 13 learning rates"


def _add_cost(plan: Plan, metric: str) -> None:
    name = torch.cuda.get_device_name(plan.device) if plan.device.type == "cuda" else "the CPU"
    plan.protocol[metric] = f"on {name}, {plan.request.precision}, batches of {plan.request.batch_size}"


def _add_of_features(plan: Plan, network: FeatureNetwork, new: Callable[[], FeatureDistance | InceptionScore]) -> None:
    """Give each candidate a measure on features that others may use as well."""
    for measures in plan.measures:
        on_it = next((m for m in measures if isinstance(m, OfFeatures) and m.network is network), None)
        if on_it is None:
            on_it = OfFeatures(network)
            measures.append(on_it)
        on_it.measures.append(new())


_INCEPTION_WORDS = f"FID Inception of 2015 (sha256 {inception.SHA256[:8]}), TensorFlow 1's resize to 299 px"
_OF_MODELS = {"effective-rank", "channels", "ifid", "probe", "cost"}
_OF_PAIRS = {"rfid", "fd-dinov2", "psnr", "ssim", "lpips-vgg", "lpips-alex"}
_PER_IMAGE_WORDS = {"psnr": "mean over images", "ssim": "11-px Gaussian, valid region, mean over images"}
_OF_LATENTS_WORDS = {
    "effective-rank": "of the channels, over all positions, centred",
    "channels": "over all positions; dead: deviation up to 1/100 of the median's, dominant: variance over 10 times it",
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
    "gfid": _add_gfid,
    "probe": _add_probe,
    "cost": _add_cost,
}
