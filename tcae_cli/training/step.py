"""One step of training: both objectives of a batch, one backward, the update, the averages, the discriminator.

Axes: b images, h w pixels.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tcae_cli.images.transform import to_float
from tcae_cli.losses.perceptual import PerceptualDistance
from tcae_cli.losses.reconstruction import reconstruction_terms, weighted_sum
from tcae_cli.model.joint import Reconstruction
from tcae_cli.recipe.schema import Recipe
from tcae_cli.runtime.device import autocast
from tcae_cli.runtime.process_group import mean_over_ranks
from tcae_cli.training.adversary import balance, discriminator_step, generator_gradient
from tcae_cli.training.distillation import (
    TeacherSums,
    crops_of,
    distillation_terms,
    drop_frozen_gradients,
    follow_student,
)
from tcae_cli.training.ema import update_average, warmed_up
from tcae_cli.training.optim import clip_gradients, discriminator_schedule, set_learning_rate
from tcae_cli.training.schedule import has_begun, learning_rate
from tcae_cli.training.sharding import gradients_stay_here
from tcae_cli.training.state import TrainingState
from tcae_cli.training.views.crops import TrainingBatch

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Trainer:
    """What every step of a run is made with."""

    recipe: Recipe
    device: torch.device
    perceptual: PerceptualDistance | None


def training_step(trainer: Trainer, state: TrainingState, batch: TrainingBatch, *, compare: bool = False) -> Terms:
    """Train on this rank's share of a batch; returns the loss terms, `loss`, `grad_norm` and monitors as scalars.

    The loss is alpha * L_rec + L_iBOT, and L_rec alone without self-distillation (TCAE.md section 3).
    compare: measure the cosine between the two objectives' gradients too, which costs a second pass.
    """
    recipe, steps = trainer.recipe, trainer.recipe.train.steps
    spec = recipe.loss.self_distillation
    set_learning_rate(state.optimizers, learning_rate(recipe.optimizer, state.step, steps))
    parts = _parts(batch, recipe.train.accumulate)

    state.model.zero_grad()
    computed = []
    for number, part in enumerate(parts):
        with gradients_stay_here(state.forward, here=number + 1 < len(parts)):
            computed.append(_backward(trainer, state, part, compare=compare))
    terms = {name: torch.stack([part[name] for part, _ in computed]).mean() for name in computed[0][0]}

    if spec is not None:
        drop_frozen_gradients(state, spec, steps)
    terms["grad_norm"] = clip_gradients(state.model, recipe.optimizer)
    for optimizer in state.optimizers:
        optimizer.step()
    update_average(state.average, state.model.autoencoder, warmed_up(recipe.train.ema_decay, state.step))
    left = [sums for _, sums in computed if sums is not None]
    if left:
        terms["feature_spread"] = follow_student(state, left, recipe)
    if _plays(recipe, state.step, "discriminator_start"):
        terms |= _train_discriminator(trainer, state, parts)
    state.step += 1
    return terms


def _backward(
    trainer: Trainer, state: TrainingState, batch: TrainingBatch, *, compare: bool
) -> tuple[Terms, TeacherSums | None]:
    """Add the gradient of one part of a step."""
    recipe, spec = trainer.recipe, trainer.recipe.loss.self_distillation
    images, crops = (
        to_float(batch.images.to(trainer.device, non_blocking=True)),
        crops_of(batch, recipe, trainer.device),
    )
    in_the_game = _plays(recipe, state.step, "generator_start")
    decoder_again = in_the_game and recipe.loss.adversarial is not None and recipe.loss.adversarial.scope == "decoder"
    with autocast(trainer.device, recipe.train.precision):
        with torch.no_grad():
            teacher = None if crops is None or state.teacher is None else state.teacher(crops.global_crops)
        decoded, student = state.forward(images, crops, decoder_again)

    # Reconstruction: its gradient at the images first, so that no pass through the decoder is made for the balance.
    terms, gradient = _at_images(trainer, images, decoded.images)
    alpha = 1.0 if spec is None else spec.alpha
    ends, gradients = [decoded.images], [alpha * gradient]
    if in_the_game:
        game, game_gradient = _game(state, decoded, gradient, batch.samples.tolist(), recipe)
        terms |= game
        if decoded.images_for_decoder is None:
            gradients[0] = gradients[0] + alpha * game_gradient
        else:
            ends, gradients = [*ends, decoded.images_for_decoder], [*gradients, alpha * game_gradient]
    terms["loss"] = alpha * terms["loss"]

    left = None
    if student is not None and teacher is not None and crops is not None:
        distillation, left = distillation_terms(student, teacher, crops.masks, state, recipe)
        terms |= {name: term.detach() for name, term in distillation.items()}
        objective = distillation["class_token"] + distillation["masked_patch"]
        terms["loss"] = terms["loss"] + objective.detach()
        if compare:
            terms["gradient_cosine"] = _gradient_cosine(state, ends[:1], gradients[:1], objective)
        ends, gradients = [*ends, objective], [*gradients, torch.ones_like(objective)]

    share = 1 / recipe.train.accumulate
    torch.autograd.backward(
        ends, [share * gradient.to(end.dtype) for end, gradient in zip(ends, gradients, strict=True)]
    )
    return terms, left


def _at_images(trainer: Trainer, images: Tensor, decoded: Tensor) -> tuple[Terms, Tensor]:
    """Terms of the reconstruction loss without the game, `loss` their weighted sum; its gradient at the images."""
    leaf = decoded.detach().float().requires_grad_()
    terms = reconstruction_terms(leaf, images, trainer.perceptual)
    loss = weighted_sum(terms, trainer.recipe.loss)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return {name: term.detach() for name, term in {**terms, "loss": loss}.items()}, gradient


def _game(
    state: TrainingState, decoded: Reconstruction, gradient: Tensor, samples: list[int], recipe: Recipe
) -> tuple[Terms, Tensor]:
    """The adversarial terms, and their weighted gradient at the images."""
    assert state.discriminator is not None and recipe.loss.adversarial is not None
    loss, game_gradient = generator_gradient(state.discriminator, decoded.images.float(), samples, recipe)
    weight = balance(gradient, game_gradient, decoded.last_tokens, recipe.model.patch_size)
    return {"generator": loss, "adaptive_weight": weight}, recipe.loss.adversarial.weight * weight * game_gradient


def _gradient_cosine(state: TrainingState, ends: list[Tensor], gradients: list[Tensor], objective: Tensor) -> Tensor:
    """Cosine, in [-1, 1], between the two objectives' gradients at the encoder's last block; below 0 they fight."""
    block = list(state.model.autoencoder.encoder.coarse_blocks[-1].parameters())
    reconstruction = torch.autograd.grad(
        ends, block, [g.to(e.dtype) for g, e in zip(gradients, ends, strict=True)], retain_graph=True
    )
    distillation = torch.autograd.grad(objective, block, retain_graph=True)
    one, other = (mean_over_ranks(torch.cat([g.flatten() for g in found])) for found in (reconstruction, distillation))
    return F.cosine_similarity(one, other, dim=0)


def _train_discriminator(trainer: Trainer, state: TrainingState, parts: list[TrainingBatch]) -> Terms:
    """On what the updated model makes of the same images."""
    recipe, adversarial = trainer.recipe, trainer.recipe.loss.adversarial
    assert adversarial is not None and state.discriminator is not None and state.discriminator_optimizer is not None
    begun_at = round(adversarial.discriminator_start * recipe.train.steps)
    schedule = discriminator_schedule(recipe.optimizer, adversarial)
    rate = learning_rate(schedule, state.step - begun_at, recipe.train.steps - begun_at)
    set_learning_rate([state.discriminator_optimizer], rate)
    seen = []
    for part in parts:
        images = to_float(part.images.to(trainer.device, non_blocking=True))
        with torch.no_grad(), autocast(trainer.device, recipe.train.precision):
            seen.append((images, state.model.reconstruct(images).float(), part.samples.tolist()))
    return discriminator_step(state.discriminator, state.discriminator_optimizer, seen, recipe)


def _plays(recipe: Recipe, step: int, start: str) -> bool:
    adversarial = recipe.loss.adversarial
    return adversarial is not None and has_begun(getattr(adversarial, start), step, recipe.train.steps)


def _parts(batch: TrainingBatch, accumulate: int) -> list[TrainingBatch]:
    """The batch cut into so many equal parts."""
    size = len(batch.samples) // accumulate
    tensors: dict[str, Any] = {f.name: value for f in fields(batch) if torch.is_tensor(value := getattr(batch, f.name))}
    return [
        replace(batch, **{name: value[start : start + size] for name, value in tensors.items()})
        for start in range(0, size * accumulate, size)
    ]
