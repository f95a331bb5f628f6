"""Lists a few autoencoders that are published, and where the Hugging Face Hub's cache on this machine holds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcae_cli.runtime.hub_models import cached_model_file

_UNKNOWN = "see its page"
_ALONE, _IN_A_PIPELINE = "diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A model by the name that `--model` takes, and its figures, which are known without its files."""

    name: str
    channels: int
    downsampling: int
    num_parameters: int  # of encoder and decoder, if it has one
    licence: str  # of the weights
    path: Path | None  # of the weights on this machine; None if no cache holds them


# Repository, channels, downsampling, parameters, licence, file. Parameters are counted from the classes and their
# published configurations.
_OF_DIFFUSERS = (
    ("stabilityai/sd-vae-ft-mse", 4, 8, 83_653_863, "MIT", _ALONE),
    ("madebyollin/sdxl-vae-fp16-fix", 4, 8, 83_653_863, "MIT", _ALONE),
    ("madebyollin/taesd", 4, 8, 2_445_063, "MIT", _ALONE),
    ("mit-han-lab/dc-ae-f32c32-in-1.0-diffusers", 32, 32, 323_356_460, _UNKNOWN, _ALONE),
    ("nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08", 768, 16, 501_638_656, _UNKNOWN, _ALONE),
    ("black-forest-labs/FLUX.1-schnell", 16, 8, 83_819_683, "Apache-2.0", _IN_A_PIPELINE),
    ("black-forest-labs/FLUX.2-klein-4B", 32, 8, 84_046_115, "Apache-2.0", _IN_A_PIPELINE),
    ("Qwen/Qwen-Image", 16, 8, 126_892_531, "Apache-2.0", _IN_A_PIPELINE),
    ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", 16, 8, 126_892_531, "Apache-2.0", _IN_A_PIPELINE),
    ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", 48, 16, 704_688_668, "Apache-2.0", _IN_A_PIPELINE),
    ("hunyuanvideo-community/HunyuanVideo", 16, 8, 246_478_803, "Tencent Hunyuan Community", _IN_A_PIPELINE),
    ("genmo/mochi-1-preview", 12, 8, 459_748_611, "Apache-2.0", _IN_A_PIPELINE),
)
_OF_TIMM = (
    ("vit_small_patch14_dinov2.lvd142m", 384, 14, 22_056_192, "Apache-2.0"),
    ("vit_base_patch14_dinov2.lvd142m", 768, 14, 86_579_712, "Apache-2.0"),
    ("vit_base_patch14_reg4_dinov2.lvd142m", 768, 14, 86_582_016, "Apache-2.0"),
    ("vit_base_patch16_siglip_256.v2_webli", 768, 16, 92_930_304, "Apache-2.0"),
)


def published_in_diffusers() -> list[PublishedModel]:
    """Return a few models of diffusers."""
    return [
        _published(f"diffusers:{repository}", figures, cached_model_file(repository, file))
        for repository, *figures, file in _OF_DIFFUSERS
    ]


def published_in_timm() -> list[PublishedModel]:
    """Return a few encoders of timm."""
    return [
        _published(f"timm:{name}", figures, cached_model_file(f"timm/{name}", "model.safetensors"))
        for name, *figures in _OF_TIMM
    ]


def _published(name: str, figures: Sequence[Any], path: Path | None) -> PublishedModel:
    channels, downsampling, num_parameters, licence = figures
    return PublishedModel(
        name=name,
        channels=channels,
        downsampling=downsampling,
        num_parameters=num_parameters,
        licence=licence,
        path=path,
    )
