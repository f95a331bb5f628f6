"""The frozen DINO transformers a discriminator looks through.

Axes: b images, h w pixels or tokens.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcae_cli.features.weights import hub_cache, load_pretrained

DINO_WIDTH = 384
_IMAGE_SIZE = 224  # pixels, square, that positions were learnt at
_BLOCKS = [2, 5, 8, 11]  # whose output is a feature map
NUM_MAPS = len(_BLOCKS) + 1


@dataclass(frozen=True)
class _Network:
    architecture: str  # of timm, and the name of its repository at huggingface.co/timm
    file: str  # as torch's hub cache names it


NETWORKS = {
    "dino-s8": _Network("vit_small_patch8_224.dino", "dino_deitsmall8_pretrain.pth"),
    "dino-s16": _Network("vit_small_patch16_224.dino", "dino_deitsmall16_pretrain.pth"),
}


class DinoFeatures(nn.Module):
    """Patch tokens of a frozen DINO ViT-S: images [b, 3, h, w] in [-1, 1] to 5 maps [b, 384, 224/p, 224/p], float32.

    They come after blocks 2, 5, 8 and 11, counted from 0, and once more after the final norm (RAE; TRAINING.md 2.2).
    """

    mean: Tensor
    std: Tensor
    transformer: Any  # timm.models.VisionTransformer, whose annotations do not fit its use

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(transformer.pretrained_cfg[name]).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()
        for block in transformer.blocks:
            block.attn.qkv.bias[DINO_WIDTH : 2 * DINO_WIDTH] = 0  # the keys'

    def forward(self, images: Tensor) -> list[Tensor]:
        images = F.interpolate(images, size=(_IMAGE_SIZE, _IMAGE_SIZE), mode="bilinear")
        images = ((images + 1) / 2 - self.mean) / self.std
        normed, maps = self.transformer.forward_intermediates(images, indices=_BLOCKS)
        last = normed[:, 1:].transpose(1, 2)  # without the class token
        return [*maps, last.reshape(maps[-1].shape)]


def load_dino(name: str, weights: Path | None = None) -> DinoFeatures:
    """A network of NETWORKS, from `weights`, torch's hub cache or Hugging Face's.

    Raises WeightsError, naming the file and the option, where they are missing or do not fit.
    """
    network = NETWORKS[name]
    published = f"https://dl.fbaipublicfiles.com/dino/{Path(network.file).stem}/{network.file}"
    transformer = load_pretrained(
        lambda: timm.create_model(network.architecture, pretrained=False, num_classes=0),
        weights or _cached(network),
        name,
        f"{network.file} ({published})",
        "set loss.adversarial.discriminator to patchgan in the recipe",
    )
    return DinoFeatures(transformer)


def _cached(network: _Network) -> Path:
    path = hub_cache(network.file)
    if path.is_file():
        return path
    found = huggingface_hub.try_to_load_from_cache(f"timm/{network.architecture}", "model.safetensors")
    return Path(found) if isinstance(found, str) else path
