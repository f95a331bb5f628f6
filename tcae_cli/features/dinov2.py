"""The DINOv2 transformer whose features FD-DINOv2 compares.

Axes: b images, h w pixels.
"""

from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from tcae_cli.features.normalised import NormalisedNetwork
from tcae_cli.features.weights import load_pretrained

NAME = "dinov2"  # in --weights
_ARCHITECTURE = "vit_large_patch14_dinov2"  # of timm
_IMAGE_SIZE = 224  # pixels, square
_NUDGE = 0.1  # patches; Meta's code adds it to a side before it divides, and the released figures have it


class Dinov2Features(NormalisedNetwork):
    """Images [b, 3, h, w], uint8, to features [b, 1024], float32: the class token after the final norm.

    Images are resized to 224 px, bicubic and antialiased. Source: Stein et al. (arXiv:2306.04675), resized in torch as
    in EDM2 (arXiv:2312.02696), where Pillow would round to whole levels.
    """

    width = 1024  # of the features
    transformer: Any  # timm.models.VisionTransformer, whose annotations do not fit its use

    def __init__(self, transformer: Any) -> None:
        """transformer: with positions for the images it was trained on, 37 x 37 patches."""
        super().__init__(transformer.pretrained_cfg["mean"], transformer.pretrained_cfg["std"])
        self.transformer = transformer
        self.requires_grad_(False).eval()
        positions = _resize_as_dinov2(transformer.pos_embed, _IMAGE_SIZE // transformer.patch_embed.patch_size[0])
        transformer.set_input_size(_IMAGE_SIZE)  # resizes positions too, with antialiasing
        transformer.pos_embed.copy_(positions)

    def forward(self, images: Tensor) -> Tensor:
        size = (_IMAGE_SIZE, _IMAGE_SIZE)
        resized = F.interpolate(images.float(), size=size, mode="bicubic", antialias=True)
        features: Tensor = self.transformer(self.normalise(resized / 255))
        return features


def load_dinov2(weights: Path | None = None) -> Dinov2Features:
    """Load the frozen network with the published weights, from `weights`, torch's hub cache or Hugging Face's.

    Raises WeightsError, naming the file and the option, if the weights can neither be found nor fetched, or do not fit.
    """
    return Dinov2Features(load_pretrained(_build, NAME, weights, "omit the metrics that need it"))


def _build() -> Any:
    transformer = timm.create_model(_ARCHITECTURE, pretrained=False, num_classes=0)
    # Meta's file also has a token for masked training, which timm's model lacks.
    transformer.register_load_state_dict_pre_hook(lambda _module, tensors, *_others: tensors.pop("mask_token", None))
    return transformer


def _resize_as_dinov2(positions: Tensor, length: int) -> Tensor:
    """Return positions [1, 1 + length^2, d] of class token and patches, of [1, 1 + n^2, d]: bicubic, not antialiased.

    Source: interpolate_pos_encoding of github.com/facebookresearch/dinov2, vision_transformer.py.
    """
    class_token, patches = positions[:, :1], positions[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    grid = patches.mT.unflatten(2, (side, side))
    resized = F.interpolate(grid, scale_factor=(length + _NUDGE) / side, mode="bicubic")
    return torch.cat([class_token, resized.flatten(2).mT], dim=1)
