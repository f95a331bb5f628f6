"""The frozen DINO transformers whose features a discriminator judges.

Axes: b images, h w pixels or tokens.
"""

from pathlib import Path
from typing import Any

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from tcae_cli.features.normalised import NormalisedNetwork
from tcae_cli.features.weights import load_pretrained
from tcae_cli.runtime.device import autocast

DINO_WIDTH = 384
_IMAGE_SIZE = 224  # pixels, square, that positions were learnt at
_BLOCKS = [2, 5, 8, 11]  # whose output is a feature map
NUM_MAPS = len(_BLOCKS) + 1


NETWORKS = {"dino-s8": "vit_small_patch8_224.dino", "dino-s16": "vit_small_patch16_224.dino"}  # architectures of timm


class DinoFeatures(NormalisedNetwork):
    """Patch tokens of a frozen DINO ViT-S: images [b, 3, h, w] in [-1, 1] to 5 maps [b, 384, 224/p, 224/p], float32.

    They come after blocks 2, 5, 8 and 11, counted from 0, and once more after the final norm. Source: the
    discriminator of RAE (arXiv:2510.11690; github.com/bytetriper/RAE).
    """

    transformer: Any  # timm.models.VisionTransformer, whose annotations do not fit its use

    def __init__(self, transformer: Any) -> None:
        super().__init__(transformer.pretrained_cfg["mean"], transformer.pretrained_cfg["std"])
        self.transformer = transformer
        self.requires_grad_(False).eval()
        for block in transformer.blocks:
            block.attn.qkv.bias[DINO_WIDTH : 2 * DINO_WIDTH] = 0  # the keys'

    @property
    def blocks(self) -> nn.Sequential:
        """Return the transformer's blocks, which are alike."""
        blocks: nn.Sequential = self.transformer.blocks
        return blocks

    def forward(self, images: Tensor) -> list[Tensor]:
        resized = F.interpolate(images, size=(_IMAGE_SIZE, _IMAGE_SIZE), mode="bilinear")
        with autocast(images.device, self.precision):
            normed, maps = self.transformer.forward_intermediates(self.normalise((resized + 1) / 2), indices=_BLOCKS)
        last = normed[:, 1:].transpose(1, 2)  # without the class token
        return [found.to(images.dtype) for found in (*maps, last.reshape(maps[-1].shape))]


def load_dino(name: str, weights: Path | None = None) -> DinoFeatures:
    """Load a network of NETWORKS, from `weights`, torch's hub cache or Hugging Face's.

    Raises WeightsError, naming the file and the option, if the weights can neither be found nor fetched, or do not fit.
    """
    instead = "set loss.adversarial.discriminator to patchgan in the recipe"
    return DinoFeatures(load_pretrained(lambda: transformer(name), name, weights, instead))


def transformer(name: str) -> Any:
    """Return the transformer of a network of NETWORKS, without its pretrained weights."""
    return timm.create_model(NETWORKS[name], pretrained=False, num_classes=0, weight_init="skip")
