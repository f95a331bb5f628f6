"""The pixel shortcut's weights in closed form: a PCA of pixel blocks.

Axes: b batch, c latent channels, f pixels a block has along a side, k = 3 f f values of a block.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tcae_cli.model.tcae import TCAE


@dataclass(frozen=True)
class BlockPca:
    """Principal components of f x f pixel blocks."""

    mean: Tensor  # [3], of each colour, in [-1, 1]
    components: Tensor  # [c, k], orthonormal rows, largest variance first
    std: Tensor  # [c], of each component


def fit_block_pca(batches: Iterable[Tensor], block: int, num_components: int) -> BlockPca:
    """Return the PCA of the f x f blocks of image batches [b, 3, h, w] in [-1, 1], about each colour's mean."""
    size = 3 * block * block
    second_moment = torch.zeros(size, size, dtype=torch.float64)
    total = torch.zeros(size, dtype=torch.float64)
    count = 0
    for images in batches:
        blocks = F.unfold(images.float(), block, stride=block).transpose(1, 2).reshape(-1, size)
        second_moment += (blocks.T @ blocks).double()
        total += blocks.double().sum(dim=0)
        count += len(blocks)
    mean = (total / count).view(3, -1).mean(dim=1)
    shift = mean.repeat_interleave(block * block)
    about_mean = second_moment / count - torch.outer(total, shift) / count
    about_mean += torch.outer(shift, shift) - torch.outer(shift, total) / count
    variances, vectors = torch.linalg.eigh(about_mean)
    largest = slice(-num_components, None)
    components = vectors[:, largest].flip(1).T
    std = variances[largest].flip(0).clamp_min(1e-12).sqrt()
    return BlockPca(mean.float(), components.float().contiguous(), std.float())


@torch.no_grad()
def start_from_pca(model: TCAE, pca: BlockPca) -> None:
    """Set the pixel shortcut to the PCA and zero the transformer's two outputs, so that the transformer adds to it.

    A component is divided by the root of its standard deviation on the way in and multiplied by it on the way out:
    latents of full PCA range would drown the fine channels in the decoder, and whitened ones would amplify their noise.
    """
    shortcut_in, shortcut_out = model.shortcut_in, model.shortcut_out
    assert shortcut_in and shortcut_out and shortcut_in.bias is not None and shortcut_out.bias is not None
    scale = pca.std.sqrt()[:, None]
    shift = pca.mean.repeat_interleave(pca.components.shape[1] // 3)
    forward = pca.components / scale
    shortcut_in.weight.copy_(forward.view_as(shortcut_in.weight))
    shortcut_in.bias.copy_(-forward @ shift)
    shortcut_out.weight.copy_((pca.components * scale).view_as(shortcut_out.weight))
    shortcut_out.bias.copy_(pca.mean)
    for output in (model.to_latents.mlp.fc2, model.decoder.to_pixels):
        for parameter in output.parameters():
            parameter.zero_()
