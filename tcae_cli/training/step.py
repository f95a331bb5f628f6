"""One step of training: both objectives of a batch, one backward pass, the update, the averages, the discriminator.

Axes: b images, h w pixels.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tcae_cli.images.transform import to_float
from tcae_cli.losses.reconstruction import ReconstructionLoss
from tcae_cli.model.joint import Reconstruction
from tcae_cli.recipe.schema import Recipe
from tcae_cli.runtime.device import autocast, to_device
from tcae_cli.runtime.process_group import mean_over_ranks
from tcae_cli.training.adversary import balance, discriminator_step, generator_gradient
from tcae_cli.training.distillation import (
    TeacherSums,
    crops_of,
    distillation_terms,
    follow_student,
)
from tcae_cli.training.ema import update_average, warmed_up
from tcae_cli.training.optim import clip_gradients, set_learning_rate
from tcae_cli.training.schedule import has_begun, learning_rate
from tcae_cli.training.sharding import gradients_stay_here
from tcae_cli.training.state import TrainingState
from tcae_cli.training.views.crops import TrainingBatch

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Trainer:
    """The parts of a training step that do not change during a run."""

    recipe: Recipe
    device: torch.device
    reconstruction_loss: ReconstructionLoss


def training_step(trainer: Trainer, state: TrainingState, batch: TrainingBatch, *, compare: bool = False) -> Terms:
    """Train on this rank's share of a batch; return the loss terms, `loss`, `grad_norm` and monitors as scalars.

    The loss is alpha * L_rec + L_iBOT (arXiv:2604.07340, section 3), or L_rec alone without self-distillation.
    compare: also measure the cosine between the two objectives' gradients, which costs a second pass.
    """
    recipe = trainer.recipe
    steps = recipe.train.steps
    spec = recipe.loss.self_distillation
    set_learning_rate(state.optimizers, learning_rate(recipe.optimizer, state.step, steps))
    parts = _micro_batches(batch, recipe.train.accumulate)

    state.model.zero_grad()
    computed = []
    for number, part in enumerate(parts):
        with gradients_stay_here(state.forward, here=number + 1 < len(parts)):
            computed.append(backward(trainer, state, part, compare=compare))
    terms = {name: torch.stack([part[name] for part, _ in computed]).mean() for name in computed[0][0]}

    # At first the prototypes stay fixed, so that the features settle on them.
    if spec is not None and state.model.head is not None and state.step < spec.frozen_last_layer * steps:
        state.model.head.prototypes.grad = None
    terms["grad_norm"] = clip_gradients(state.model, recipe.optimizer)
    for optimizer in state.optimizers:
        optimizer.step()
    update_average(state.average, state.model.autoencoder, warmed_up(recipe.train.ema_decay, state.step))
    teacher_sums = [sums for _, sums in computed if sums is not None]
    if teacher_sums:
        terms["feature_spread"] = follow_student(state, teacher_sums, recipe)
    if _plays(recipe, state.step, "discriminator_start"):
        terms |= train_discriminator(trainer, state, parts)
    state.step += 1
    return terms


def backward(
    trainer: Trainer, state: TrainingState, batch: TrainingBatch, *, compare: bool
) -> tuple[Terms, TeacherSums | None]:
    """Add the gradient of one micro-batch; return its terms and, for self-distillation, the teacher's sums."""
    recipe = trainer.recipe
    spec = recipe.loss.self_distillation
    images = to_float(to_device(batch.images, trainer.device))
    crops = crops_of(batch, recipe, trainer.device)
    in_the_game = _plays(recipe, state.step, "generator_start")
    decoder_again = in_the_game and recipe.loss.adversarial is not None and recipe.loss.adversarial.scope == "decoder"
    with autocast(trainer.device, recipe.train.precision):
        with torch.no_grad():
            teacher = None if crops is None or state.teacher is None else state.teacher(crops.global_crops)
        decoded, student = state.forward(images, crops, decoder_again)

    # Reconstruction: its gradient at the images comes first, so that balancing needs no pass through the decoder.
    terms, gradient = _at_images(trainer.reconstruction_loss, images, decoded.images)
    alpha = 1.0 if spec is None else spec.alpha
    ends = [decoded.images]
    gradients = [alpha * gradient]
    if in_the_game:
        game, game_gradient = _game(state, decoded, gradient, batch.samples.tolist(), recipe)
        terms |= game
        if decoded.images_for_decoder is None:
            gradients[0] = gradients[0] + alpha * game_gradient
        else:
            ends.append(decoded.images_for_decoder)
            gradients.append(alpha * game_gradient)
    terms["loss"] = alpha * terms["loss"]

    # Self-distillation: a scalar beside the images.
    teacher_sums = None
    if student is not None and teacher is not None and crops is not None:
        distillation, teacher_sums = distillation_terms(student, teacher, crops, state, recipe)
        terms |= {name: term.detach() for name, term in distillation.items()}
        objective = distillation["class_token"] + distillation["masked_patch"]
        terms["loss"] = terms["loss"] + objective.detach()
        if compare:
            terms["gradient_cosine"] = _gradient_cosine(state, decoded.images, gradients[0], objective)
        ends.append(objective)
        gradients.append(torch.ones_like(objective))

    share = 1 / recipe.train.accumulate
    scaled = [share * gradient.to(end.dtype) for end, gradient in zip(ends, gradients, strict=True)]
    torch.autograd.backward(ends, scaled)
    return terms, teacher_sums


def _at_images(loss: ReconstructionLoss, images: Tensor, decoded: Tensor) -> tuple[Terms, Tensor]:
    """Return the terms of the reconstruction loss with `loss`, their weighted sum, and its gradient at the images."""
    leaf = decoded.detach().float().requires_grad_()
    terms = loss(leaf, images)
    (gradient,) = torch.autograd.grad(terms["loss"], leaf)
    return {name: term.detach() for name, term in terms.items()}, gradient


def _game(
    state: TrainingState, decoded: Reconstruction, gradient: Tensor, samples: list[int], recipe: Recipe
) -> tuple[Terms, Tensor]:
    """Return the adversarial terms and their weighted gradient at the images; gradient: the reconstruction loss's."""
    assert state.discriminator is not None and recipe.loss.adversarial is not None
    loss, game_gradient = generator_gradient(state.discriminator, decoded.images.float(), samples, recipe)
    weight = balance(gradient, game_gradient, decoded.last_tokens, recipe.model.patch_size)
    return {"generator": loss, "adaptive_weight": weight}, recipe.loss.adversarial.weight * weight * game_gradient


def _gradient_cosine(state: TrainingState, decoded: Tensor, gradient: Tensor, objective: Tensor) -> Tensor:
    """Return the cosine, in [-1, 1], between the two objectives' gradients at the encoder's last block.

    Below 0 the objectives conflict. gradient: the first objective's at the decoded images.
    """
    block = list(state.model.autoencoder.encoder.coarse_blocks[-1].parameters())
    reconstruction = torch.autograd.grad(decoded, block, gradient.to(decoded.dtype), retain_graph=True)
    distillation = torch.autograd.grad(objective, block, retain_graph=True)
    one, other = (mean_over_ranks(torch.cat([g.flatten() for g in found])) for found in (reconstruction, distillation))
    return F.cosine_similarity(one, other, dim=0)


def train_discriminator(trainer: Trainer, state: TrainingState, parts: list[TrainingBatch]) -> Terms:
    """Train the discriminator on the updated model's reconstructions of the same images; return its terms."""
    recipe = trainer.recipe
    adversarial = recipe.loss.adversarial
    assert adversarial is not None and state.discriminator is not None and state.discriminator_optimizer is not None
    # The optimiser's schedule, scaled to the discriminator's peak and counted from its start.
    min_lr = recipe.optimizer.min_lr * adversarial.lr / recipe.optimizer.lr
    schedule = recipe.optimizer.model_copy(update={"lr": adversarial.lr, "min_lr": min_lr})
    begun_at = round(adversarial.discriminator_start * recipe.train.steps)
    rate = learning_rate(schedule, state.step - begun_at, recipe.train.steps - begun_at)
    set_learning_rate([state.discriminator_optimizer], rate)

    seen = []
    for part in parts:
        images = to_float(to_device(part.images, trainer.device))
        with torch.no_grad(), autocast(trainer.device, recipe.train.precision):
            seen.append((images, state.model.reconstruct(images).float(), part.samples.tolist()))
    return discriminator_step(state.discriminator, state.discriminator_optimizer, seen, recipe)


def _plays(recipe: Recipe, step: int, start: str) -> bool:
    """Return whether the adversarial game has reached `start`, a key of its section; False without one."""
    adversarial = recipe.loss.adversarial
    return adversarial is not None and has_begun(getattr(adversarial, start), step, recipe.train.steps)


def _micro_batches(batch: TrainingBatch, count: int) -> list[TrainingBatch]:
    """Cut the batch into `count` equal parts."""
    size = len(batch.samples) // count
    tensors: dict[str, Any] = {f.name: value for f in fields(batch) if torch.is_tensor(value := getattr(batch, f.name))}
    return [
        replace(batch, **{name: value[start : start + size] for name, value in tensors.items()})
        for start in range(0, size * count, size)
    ]
