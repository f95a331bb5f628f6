"""Lists the files of pretrained weights: where each is published, and how a fetched one is checked.

A file is checked by its SHA-256 where that is published, and otherwise by the names and shapes of its tensors.
"""

from dataclasses import dataclass

import torchvision


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file of pretrained weights."""

    name: str  # the network's in --weights
    file: str  # as torch's hub cache names it
    url: str
    used_for: str
    licence: str
    size_bytes: int | None = None
    sha256: str | None = None  # in hexadecimal, or its first digits
    other_file: str | None = None  # another name of the same bytes in torch's hub cache
    repository: str | None = None  # of timm, at huggingface.co, with the same tensors in model.safetensors
    shipped: str | None = None  # weights that the network needs besides, and that come with an installed package


def _of_torchvision(weights: str, *, name: str, used_for: str, size_bytes: int, lpips: bool = False) -> PublishedFile:
    """Return the row of weights of torchvision, which names files after the first 8 digits of their SHA-256."""
    url = torchvision.models.get_weight(weights).url
    file = url.rpartition("/")[2]
    return PublishedFile(
        name=name,
        file=file,
        url=url,
        used_for=used_for,
        licence="BSD-3-Clause",
        size_bytes=size_bytes,
        sha256=file.removesuffix(".pth").rpartition("-")[2],
        shipped="LPIPS's linear weights (BSD-2-Clause), part of torchmetrics" if lpips else None,
    )


_META = "https://dl.fbaipublicfiles.com"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_PYTORCH_FID = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights"

# The sizes stand beside these hashes in many public repositories; tests compare torchvision's with what it rounds.
FILES = {
    each.name: each
    for each in (
        PublishedFile(
            name="inception",
            file="pt_inception-2015-12-05-6726825d.pth",
            url=f"{_PYTORCH_FID}/pt_inception-2015-12-05-6726825d.pth",
            used_for="rFID, gFID, iFID and IS",
            licence="Apache-2.0",
            size_bytes=95_628_359,
            sha256=INCEPTION_SHA256,
            other_file="weights-inception-2015-12-05-6726825d.pth",
        ),
        PublishedFile(
            name="dinov2",
            file="dinov2_vitl14_pretrain.pth",
            url=f"{_META}/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
            used_for="FD-DINOv2",
            licence="Apache-2.0",
            size_bytes=1_217_586_395,
            # github.com/finegrain-ai/refiners, src/refiners/conversion/models/dinov2.py
            sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
            repository="timm/vit_large_patch14_dinov2.lvd142m",
        ),
        _of_torchvision(
            "VGG16_Weights.IMAGENET1K_V1",
            name="lpips-vgg",
            used_for="the perceptual loss, and LPIPS",
            size_bytes=553_433_881,
            lpips=True,
        ),
        _of_torchvision(
            "AlexNet_Weights.IMAGENET1K_V1", name="lpips-alex", used_for="LPIPS", size_bytes=244_408_911, lpips=True
        ),
        _of_torchvision(
            "SqueezeNet1_1_Weights.IMAGENET1K_V1",
            name="squeezenet1_1",
            used_for="a small perceptual loss or discriminator",
            size_bytes=4_958_839,
        ),
        # Neither size nor SHA-256 of the DINO files is published.
        PublishedFile(
            name="dino-s8",
            file="dino_deitsmall8_pretrain.pth",
            url=f"{_META}/dino/dino_deitsmall8_pretrain/dino_deitsmall8_pretrain.pth",
            used_for="the discriminator",
            licence="Apache-2.0",
            repository="timm/vit_small_patch8_224.dino",
        ),
        PublishedFile(
            name="dino-s16",
            file="dino_deitsmall16_pretrain.pth",
            url=f"{_META}/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
            used_for="a faster discriminator",
            licence="Apache-2.0",
            repository="timm/vit_small_patch16_224.dino",
        ),
    )
}
