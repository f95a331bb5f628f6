"""The adversarial part of a step: the gradient that the discriminator gives the autoencoder, and its own update.

Axes: b images, h w pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tcae_cli.images.transform import to_float, to_uint8
from tcae_cli.losses.adversarial import (
    adaptive_weight,
    discriminator_accuracy,
    discriminator_loss,
    generator_loss,
    last_weight_gradient,
)
from tcae_cli.losses.diffaug import diffaug, draw_diffaug
from tcae_cli.losses.discriminator import update_spectral_norms
from tcae_cli.recipe.schema import Recipe
from tcae_cli.runtime.device import to_device
from tcae_cli.runtime.process_group import mean_over_ranks


def generator_gradient(
    discriminator: nn.Module, decoded: Tensor, samples: Sequence[int], recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """Return the generator's loss, a scalar, and its gradient at decoded images [b, 3, h, w], float32 in [-1, 1]."""
    leaf = decoded.detach().requires_grad_()
    loss = generator_loss(discriminator(_augmented(leaf, samples, "generator", recipe)))
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def balance(reconstruction: Tensor, generator: Tensor, last_tokens: Tensor, patch_size: int) -> Tensor:
    """Return the adaptive weight of two gradients at the images, [b, 3, h, w] each, by their effect on the last layer.

    They are averaged over the ranks before their norms are taken, because the mean of norms is a different number.
    """
    at_weight = [last_weight_gradient(gradient, last_tokens, patch_size) for gradient in (reconstruction, generator)]
    return adaptive_weight(*(mean_over_ranks(gradient) for gradient in at_weight))


def discriminator_step(
    discriminator: nn.Module,
    optimizer: Optimizer,
    parts: Sequence[tuple[Tensor, Tensor, Sequence[int]]],
    recipe: Recipe,
) -> dict[str, Tensor]:
    """Train the discriminator on originals and their reconstructions; return its loss and accuracy, scalars.

    parts: for each micro-batch originals and reconstructions, [b, 3, h, w] in [-1, 1], and the numbers of its samples.
    Reconstructions are clamped and rounded to 8 bits, as users get them.
    """
    update_spectral_norms(discriminator)
    optimizer.zero_grad()
    losses = []
    accuracies = []
    for originals, decoded, samples in parts:
        real = discriminator(_augmented(originals, samples, "real", recipe))
        fake = discriminator(_augmented(to_float(to_uint8(decoded)), samples, "fake", recipe))
        loss = discriminator_loss(real, fake)
        (loss / len(parts)).backward()
        losses.append(loss.detach())
        accuracies.append(discriminator_accuracy(real, fake))
    gradients = [p.grad for p in discriminator.parameters() if p.grad is not None]
    averaged = mean_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, mean in zip(gradients, averaged.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
    optimizer.step()
    return {
        "discriminator": torch.stack(losses).mean(),
        "discriminator_accuracy": torch.stack(accuracies).mean(),
    }


def _augmented(images: Tensor, samples: Sequence[int], stream: str, recipe: Recipe) -> Tensor:
    """Return the images through DiffAug; the draws depend on the seed, the stream's name and the samples alone."""
    spec = recipe.loss.adversarial
    assert spec is not None
    parameters = draw_diffaug(recipe.train.seed, samples, stream, spec.augment)
    return diffaug(images, to_device(parameters, images.device))
