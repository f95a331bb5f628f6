"""The DINOv2 transformer whose features FD-DINOv2 is of.

Axes: b images, h w pixels.
"""

from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcae_cli.features.weights import hub_cache, load_pretrained

NAME = "dinov2"  # in --weights
_ARCHITECTURE = "vit_large_patch14_dinov2"  # of timm
_REPOSITORY = f"timm/{_ARCHITECTURE}.lvd142m"  # at huggingface.co
_FILE = "dinov2_vitl14_pretrain.pth"
_PUBLISHED = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/{_FILE}"
_IMAGE_SIZE = 224  # pixels, square
_NUDGE = 0.1  # patches; Meta's code adds it to a side before it divides, and the released figures have it


class Dinov2Features(nn.Module):
    """Images [b, 3, h, w], uint8, to features [b, 1024], float32: the class token after the final norm.

    Resized to 224 px, bicubic and antialiased. Source: Stein et al. (arXiv:2306.04675), resized in torch as in EDM2,
    where PIL would round to whole levels.
    """

    width = 1024  # of the features
    mean: Tensor
    std: Tensor
    transformer: Any  # timm.models.VisionTransformer, whose annotations do not fit its use

    def __init__(self, transformer: Any) -> None:
        """transformer: with positions for the images it was trained on, 37 x 37 patches."""
        super().__init__()
        self.transformer = transformer
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(transformer.pretrained_cfg[name]).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()
        positions = _resize_as_dinov2(transformer.pos_embed, _IMAGE_SIZE // transformer.patch_embed.patch_size[0])
        transformer.set_input_size(_IMAGE_SIZE)  # resizes positions too, with antialiasing
        transformer.pos_embed.copy_(positions)

    def forward(self, images: Tensor) -> Tensor:
        size = (_IMAGE_SIZE, _IMAGE_SIZE)
        resized = F.interpolate(images.float(), size=size, mode="bicubic", antialias=True)
        features: Tensor = self.transformer((resized / 255 - self.mean) / self.std)
        return features


def load_dinov2(weights: Path | None = None) -> Dinov2Features:
    """The network with the published weights, from `weights`, torch's hub cache or Hugging Face's, frozen.

    Raises WeightsError, naming the file and the option, where they are missing or do not fit.
    """
    published = f"{_FILE} ({_PUBLISHED})"
    return Dinov2Features(
        load_pretrained(_build, weights or _cached(), NAME, published, "leave the metrics that need it away")
    )


def _build() -> Any:
    transformer = timm.create_model(_ARCHITECTURE, pretrained=False, num_classes=0)
    # Meta's file has a token for masked training too, timm's has not.
    transformer.register_load_state_dict_pre_hook(lambda _module, tensors, *_others: tensors.pop("mask_token", None))
    return transformer


def _cached() -> Path:
    path = hub_cache(_FILE)
    if path.is_file():
        return path
    found = huggingface_hub.try_to_load_from_cache(_REPOSITORY, "model.safetensors")
    return Path(found) if isinstance(found, str) else path


def _resize_as_dinov2(positions: Tensor, length: int) -> Tensor:
    """A class token's and patches' positions, [1, 1 + n^2, d], for length^2 patches: bicubic, not antialiased.

    Source: interpolate_pos_encoding of github.com/facebookresearch/dinov2, vision_transformer.py.
    """
    class_token, patches = positions[:, :1], positions[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    grid = patches.mT.unflatten(2, (side, side))
    resized = F.interpolate(grid, scale_factor=(length + _NUDGE) / side, mode="bicubic")
    return torch.cat([class_token, resized.flatten(2).mT], dim=1)
