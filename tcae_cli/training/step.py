"""One step of training: the loss of a batch, its gradient, the update and the moving average."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tcae_cli.losses.perceptual import PerceptualDistance
from tcae_cli.losses.reconstruction import reconstruction_terms, weighted_sum
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import Recipe
from tcae_cli.runtime.device import autocast
from tcae_cli.training.ema import update_average
from tcae_cli.training.schedule import learning_rate


@dataclass
class TrainingState:
    """Everything that a resumed run needs to go on as if it had never stopped."""

    model: TCAE
    average: TCAE
    optimizers: list[torch.optim.Optimizer]
    step: int = 0  # steps done


def training_step(
    state: TrainingState, images: Tensor, recipe: Recipe, perceptual: PerceptualDistance | None
) -> dict[str, Tensor]:
    """Train on images [b, 3, h, w], float32 in [-1, 1]; returns the loss terms, `loss` and `grad_norm` as scalars."""
    rate = learning_rate(recipe.optimizer, state.step, recipe.train.steps)
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate

    with autocast(images.device, recipe.train.precision):
        decoded = state.model(images)
    terms = reconstruction_terms(decoded.float(), images, perceptual)
    loss = weighted_sum(terms, recipe.loss)

    state.model.zero_grad()
    loss.backward()
    grad_norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), recipe.optimizer.clip_norm)
    for optimizer in state.optimizers:
        optimizer.step()
    update_average(state.average, state.model, recipe.train.ema_decay, state.step)
    state.step += 1
    return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}, "grad_norm": grad_norm}
