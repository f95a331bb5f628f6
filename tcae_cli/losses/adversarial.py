"""The losses of the adversarial game, and the weight that balances them with reconstruction.

Axes: b images, h w tokens, H W pixels, d width, p pixels of a patch's side, k logits.
Source: RAE's setup (arXiv:2510.11690); the adaptive weight is VQGAN's (arXiv:2012.09841, equation 7).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return half the hinge loss, a scalar, of logits [b, k] of originals and of reconstructions; 1 at chance."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def generator_loss(fake: Tensor) -> Tensor:
    """Return the loss that the autoencoder minimises, a scalar: minus the mean of reconstructions' logits [b, k]."""
    return -fake.mean()


def discriminator_accuracy(real: Tensor, fake: Tensor) -> Tensor:
    """Return the share of logits with the right sign, in [0, 1]: originals' above 0, reconstructions' below."""
    return torch.cat([real > 0, fake < 0]).float().mean()


@torch.no_grad()
def last_weight_gradient(image_gradient: Tensor, tokens: Tensor, patch_size: int) -> Tensor:
    """Return the gradient at the weight of the decoder's last layer, [3 p p, d], float32, from that at the images.

    image_gradient: [b, 3, H, W]. tokens: [b, h, w, d], the last layer's input.
    The layer is linear, so no pass through the decoder is needed: pixels are regrouped into patches and multiplied.
    """
    patches = F.pixel_unshuffle(image_gradient.float(), patch_size)
    return torch.einsum("bchw,bhwd->cd", patches, tokens.float())


def adaptive_weight(reconstruction: Tensor, generator: Tensor) -> Tensor:
    """Return the ratio of the norms of two gradients at the last weight, [3 p p, d] each: a scalar in [0, 1e4].

    On several ranks the caller averages both over the ranks first.
    """
    return (reconstruction.norm() / (generator.norm() + 1e-6)).clamp(0, 1e4).detach()
