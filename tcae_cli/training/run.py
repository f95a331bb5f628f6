"""A training run: how it starts or resumes, on every rank alike, and what it saves."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tcae_cli.autoencoders.checkpoint import MODEL_FILE, LatentStatistics, ModelDescription, Parent, save_checkpoint
from tcae_cli.autoencoders.tcae import fill_autoencoder, load_parent
from tcae_cli.features.backbone import load_discriminator_features, load_feature_network
from tcae_cli.images.loader import load_readable
from tcae_cli.images.transform import Transform, to_float
from tcae_cli.losses.reconstruction import ReconstructionLoss
from tcae_cli.losses.registry import DISCRIMINATORS
from tcae_cli.model.joint import JointModel, Teacher
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import Recipe
from tcae_cli.reports.progress import Progress
from tcae_cli.reports.train import TrainRequest
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import autocast
from tcae_cli.runtime.process_group import least_of_ranks, take_from_first_rank
from tcae_cli.sources.source import Source
from tcae_cli.store.statistics import Moments
from tcae_cli.training.ema import averaged_copy
from tcae_cli.training.optim import build_discriminator_optimizer, build_optimizers
from tcae_cli.training.sharding import copied, is_sharded, prepare_blocks, shard, whole
from tcae_cli.training.shortcut import fit_block_pca, start_from_pca
from tcae_cli.training.state import STATE_FILE, Centers, TrainingState, restore_state, save_state
from tcae_cli.training.step import Trainer
from tcae_cli.training.views.tar_stream import is_stream

# Keys of `train` that a resumed run may change: they say how it computes and writes, not what it computes.
_FREE = {"accumulate", "compile", "checkpointing", "sharded", "log_every", "checkpoint_every", "sample_every"}
_FREE |= {"float32_matmul_precision"}
_MEASURED_IMAGES = 2048  # at most, for the PCA and for the latents' statistics
_BATCH_SIZE = 32  # of those images


@dataclass(frozen=True)
class Run:
    """A training run in progress."""

    request: TrainRequest
    images: Source  # measured on: the source itself, or the validation images of a stream
    trainer: Trainer
    state: TrainingState
    identity: dict[str, object]  # what a resumed run must have in common with the one that it continues
    parent: Parent | None
    kept: dict[str, Tensor]  # tensors of a frozen encoder, exactly as its file holds them

    @property
    def recipe(self) -> Recipe:
        """The recipe that the run follows."""
        return self.request.recipe

    @property
    def device(self) -> torch.device:
        """The device of this rank."""
        return self.trainer.device


def start(request: TrainRequest, images: Source, device: torch.device, progress: Progress) -> Run:
    """Return a run that is ready for its next step, new or resumed.

    Raises a TcaeError if weights are missing, or if the run to resume was started differently.
    """
    recipe, weights = request.recipe, request.weights

    def for_loss(name: str) -> nn.Module:
        network = load_feature_network(name, weights.get(name))
        network.precision = recipe.train.precision
        return network.to(device).to(memory_format=torch.channels_last)  # in which convolutions are faster

    def for_discriminator(name: str) -> tuple[nn.Module, list[int]]:
        network, channels = load_discriminator_features(name, weights.get(name))
        network.precision = recipe.train.precision
        return network, channels

    trainer = Trainer(recipe, device, ReconstructionLoss(recipe.loss, for_loss))
    torch.manual_seed(recipe.train.seed)
    discriminator = None
    if (adversarial := recipe.loss.adversarial) is not None:
        kind = DISCRIMINATORS[adversarial.discriminator]
        discriminator = kind.build(adversarial.discriminator, for_discriminator).to(device).eval()
    autoencoder, parent, kept = _autoencoder(request, images, progress)
    state = new_state(recipe, autoencoder.to(device), discriminator, device)
    identity = identity_of(request, parent) | {"source": source_identity(request, images)}
    if request.resume:
        restore_state(request.out, state, identity)
        progress.say(f"resuming {request.out} after step {state.step}")
        if state.first_unit is not None:
            progress.say(f"the stream resumes at its unit {state.first_unit:,}; units in progress are read again")
    return Run(request, images, trainer, state, identity, parent, kept)


def identity_of(request: TrainRequest, parent: Parent | None) -> dict[str, object]:
    """Return what a resumed run must have in common with the one that it continues, the source aside."""
    recipe = request.recipe.model_dump(mode="json", exclude={"train": _FREE, "data": {"train", "val"}})
    return {**recipe, "parent": parent.model_dump() if parent else None, "freeze_encoder": request.freeze_encoder}


def source_identity(request: TrainRequest, images: Source) -> str:
    """Return what must stay the same about the images of a resumed run."""
    return request.data if is_stream(request.data) else images.fingerprint


def _autoencoder(
    request: TrainRequest, images: Source, progress: Progress
) -> tuple[TCAE, Parent | None, dict[str, Tensor]]:
    """Return the model to train, the parent that it was loaded from, and the tensors of a frozen encoder."""
    spec = request.recipe.model
    if request.parent is not None:
        return load_parent(request.parent, spec, freeze_encoder=request.freeze_encoder)
    model = TCAE(spec)
    if spec.pixel_shortcut and not request.resume and distributed.rank() == 0:
        progress.say("fitting the PCA that the pixel shortcut starts from")
        blocks = (to_float(pixels) for pixels in _centre_crops(images, request.recipe))
        start_from_pca(model, fit_block_pca(blocks, spec.downsampling, spec.latent_channels))
    return model, None, {}


def new_state(
    recipe: Recipe, autoencoder: TCAE, discriminator: nn.Module | None, device: torch.device
) -> TrainingState:
    """Return the state before the first step: the same weights on every rank, copied or sharded, and optimisers."""
    spec, adversarial = recipe.loss.self_distillation, recipe.loss.adversarial
    model = JointModel(autoencoder, spec).to(device)
    for module in filter(None, (model, discriminator)):
        take_from_first_rank([*module.parameters(), *module.buffers()])
    average = averaged_copy(autoencoder)
    teacher = None
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


@torch.no_grad()
def averaged(run: Run) -> TCAE:
    """Return the model that ships, as it is now, with whole tensors; every rank must call this."""
    average = run.state.average
    if not is_sharded(run.recipe):
        return average
    model = TCAE(run.recipe.model)
    fill_autoencoder(model, {name: whole(value) for name, value in average.state_dict().items()}, "")
    return model.to(run.device).requires_grad_(False).eval()


@torch.no_grad()
def save(run: Run) -> None:
    """Write the averaged model with its latents' statistics and the state to resume from; each atomically.

    Every rank must call this, and the first one writes. Raises DiskError if there is no room; the earlier files remain.
    """
    model = averaged(run)
    # The state is the last of a checkpoint, so that no model is older than it. The first state comes before the model:
    # a model alone could be neither resumed nor replaced.
    is_first = not (run.request.out / STATE_FILE).exists()
    if not is_first:
        _save_model(run, model)
    if run.state.first_unit is not None:
        run.state.first_unit = least_of_ranks(run.state.first_unit)
    save_state(run.request.out, run.state, run.identity)
    if is_first:
        _save_model(run, model)


def _save_model(run: Run, model: TCAE) -> None:
    if distributed.rank() != 0:
        return
    dtype = getattr(torch, run.recipe.train.weights_dtype)
    tensors = {name: value.to(dtype) for name, value in model.state_dict().items()} | run.kept
    description = ModelDescription(
        spec=run.recipe.model,
        statistics=_measure_latents(run, model),
        recipe=run.recipe.model_dump(mode="json"),
        step=run.state.step,
        parent=run.parent,
    )
    save_checkpoint(run.request.out / MODEL_FILE, tensors, description)


def _measure_latents(run: Run, model: TCAE) -> LatentStatistics:
    """Return mean and deviation of each channel over up to 2,048 images, in float64."""
    moments: Moments | None = None
    for images in filter(len, _centre_crops(run.images, run.recipe)):
        with autocast(run.device, run.recipe.train.precision):
            latents = model.encode(to_float(images.to(run.device)))
        moments = Moments.of(latents.detach().float().cpu().numpy()).merge(moments)
    assert moments is not None  # training has read some of these images
    channel = moments.over((1, 2))
    return LatentStatistics(mean=channel.mean.tolist(), std=channel.std.tolist(), num_images=moments.count)


def _centre_crops(source: Source, recipe: Recipe) -> Iterator[Tensor]:
    """Yield batches [32, 3, h, w], uint8, of up to 2,048 images spread evenly over the source."""
    rows = range(0, len(source), -(-len(source) // _MEASURED_IMAGES))
    for start in range(0, len(rows), _BATCH_SIZE):
        batch = rows[start : start + _BATCH_SIZE]
        yield from load_readable(source, batch, Transform.square(recipe.model.image_size, "torch"))
