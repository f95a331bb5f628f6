"""How a training run begins, or goes on: its networks, weights and state, on every rank alike."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tcae_cli.autoencoders.checkpoint import Parent
from tcae_cli.autoencoders.tcae import load_parent
from tcae_cli.features.backbone import load_discriminator_features, load_feature_network
from tcae_cli.images.loader import load_rows
from tcae_cli.images.transform import to_float
from tcae_cli.losses.discriminator import FeatureDiscriminator, PatchGan
from tcae_cli.losses.perceptual import PerceptualDistance
from tcae_cli.model.joint import JointModel, Teacher
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import Recipe
from tcae_cli.reports.progress import Progress
from tcae_cli.reports.train import TrainRequest
from tcae_cli.runtime import distributed
from tcae_cli.runtime.process_group import take_from_first_rank
from tcae_cli.sources.source import Source
from tcae_cli.training.ema import averaged_copy
from tcae_cli.training.optim import build_discriminator_optimizer, build_optimizers
from tcae_cli.training.sharding import copied, is_sharded, prepare_blocks, shard
from tcae_cli.training.shortcut import fit_block_pca, start_from_pca
from tcae_cli.training.state import Centers, TrainingState, restore_state
from tcae_cli.training.step import Trainer
from tcae_cli.training.views.tar_stream import is_stream

_FREE = {
    "accumulate",
    "compile",
    "checkpointing",
    "sharded",
    "log_every",
    "checkpoint_every",
    "sample_every",
}  # to change
_MEASURED_IMAGES = 2048  # at most, for the PCA and for the latents' statistics


@dataclass(frozen=True)
class Run:
    """A training run under way."""

    request: TrainRequest
    images: Source  # what is measured on: the source, or for a stream the validation images
    trainer: Trainer
    state: TrainingState
    identity: dict[str, object]  # what a resumed run must have in common with the one it continues
    parent: Parent | None
    kept: dict[str, Tensor]  # tensors of a frozen encoder, as their file has them

    @property
    def recipe(self) -> Recipe:
        return self.request.recipe

    @property
    def device(self) -> torch.device:
        return self.trainer.device


def start(request: TrainRequest, images: Source, device: torch.device, progress: Progress) -> Run:
    """Everything in place for the next step, of a new run or of one that goes on.

    Raises a TcaeError where weights are missing, or the run to go on with is another.
    """
    recipe = request.recipe
    trainer = Trainer(recipe, device, _perceptual_distance(request, device))
    torch.manual_seed(recipe.train.seed)
    discriminator = _discriminator(request, device)
    autoencoder, parent, kept = _autoencoder(request, images, progress)
    state = _state(recipe, autoencoder.to(device), discriminator, device)
    source = request.data if is_stream(request.data) else images.fingerprint
    identity = {**recipe.model_dump(mode="json", exclude={"train": _FREE}), "source": source}
    identity |= {"parent": parent.model_dump() if parent else None, "freeze_encoder": request.freeze_encoder}
    if request.resume:
        restore_state(request.out, state, identity)
        progress.say(f"resuming {request.out} after step {state.step}")
        if state.first_unit is not None:
            progress.say(f"the stream goes on with its unit {state.first_unit:,}; what was under way is read again")
    return Run(request, images, trainer, state, identity, parent, kept)


def centre_crops(source: Source, recipe: Recipe) -> Iterator[Tensor]:
    """Batches [32, 3, h, w], uint8, of up to 2,048 images spread evenly over the source."""
    rows = range(0, len(source), -(-len(source) // _MEASURED_IMAGES))
    batches = [rows[start : start + 32] for start in range(0, len(rows), 32)]
    for batch in batches:
        images, _, failures = load_rows(source, batch, recipe.model.image_size, "torch")
        yield images[[slot for slot, row in enumerate(batch) if row not in failures]]


def _autoencoder(
    request: TrainRequest, images: Source, progress: Progress
) -> tuple[TCAE, Parent | None, dict[str, Tensor]]:
    spec = request.recipe.model
    if request.parent is not None:
        return load_parent(request.parent, spec, freeze_encoder=request.freeze_encoder)
    model = TCAE(spec)
    if spec.pixel_shortcut and not request.resume and distributed.rank() == 0:
        progress.say("fitting the PCA that the pixel shortcut starts from")
        blocks = (to_float(pixels) for pixels in centre_crops(images, request.recipe))
        start_from_pca(model, fit_block_pca(blocks, spec.downsampling, spec.latent_channels))
    return model, None, {}


def _state(recipe: Recipe, autoencoder: TCAE, discriminator: nn.Module | None, device: torch.device) -> TrainingState:
    spec, adversarial = recipe.loss.self_distillation, recipe.loss.adversarial
    model = JointModel(autoencoder, spec).to(device)
    for module in filter(None, (model, discriminator)):
        take_from_first_rank([*module.parameters(), *module.buffers()])
    average, teacher = averaged_copy(autoencoder), None
    if model.head is not None:
        teacher = Teacher(averaged_copy(autoencoder.encoder), averaged_copy(model.head))
    for module in filter(None, (model, teacher)):
        prepare_blocks(module, recipe)
    if is_sharded(recipe):
        shard(model, "reconstruct")
        shard(average)
        if teacher is not None:
            shard(teacher)
    state = TrainingState(
        model=model,
        forward=model if is_sharded(recipe) else copied(model, device),
        average=average,
        optimizers=build_optimizers(model, recipe.optimizer),
        teacher=teacher,
        discriminator=discriminator,
    )
    if spec is not None:
        state.centers = Centers(*torch.zeros(2, spec.num_prototypes, device=device))
    if discriminator is not None and adversarial is not None:
        state.discriminator_optimizer = build_discriminator_optimizer(discriminator, recipe.optimizer, adversarial.lr)
    return state


def _perceptual_distance(request: TrainRequest, device: torch.device) -> PerceptualDistance | None:
    spec = request.recipe.loss.perceptual
    if spec is None:
        return None
    return PerceptualDistance(load_feature_network(spec.network, request.weights.get(spec.network))).to(device)


def _discriminator(request: TrainRequest, device: torch.device) -> nn.Module | None:
    spec = request.recipe.loss.adversarial
    if spec is None:
        return None
    if spec.discriminator == "patchgan":
        return PatchGan().to(device).eval()
    network, channels = load_discriminator_features(spec.discriminator, request.weights.get(spec.discriminator))
    return FeatureDiscriminator(network, channels).to(device).eval()
