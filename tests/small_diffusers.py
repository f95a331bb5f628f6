"""Diffusers autoencoders with random weights: small ones, saved as diffusers saves them, and DC-AE f32c32's shape."""

from pathlib import Path
from typing import Any

import diffusers
import torch

KL: dict[str, Any] = {
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "sample_size": 64,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
}
DC: dict[str, Any] = {
    "latent_channels": 8,
    "attention_head_dim": 8,
    "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
    "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
    "encoder_block_out_channels": (8, 16),
    "decoder_block_out_channels": (8, 16),
    "encoder_layers_per_block": (1, 1),
    "decoder_layers_per_block": (1, 1),
    "encoder_qkv_multiscales": ((), (5,)),
    "decoder_qkv_multiscales": ((), (5,)),
    "scaling_factor": 0.41407,
}
_STAGES = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
# dc-ae-f32c32-in-1.0 as published (mit-han-lab/dc-ae-f32c32-in-1.0-diffusers, config.json): 607 G multiply-accumulates
# for encoder and decoder at 256 px.
DC_F32C32: dict[str, Any] = {
    "latent_channels": 32,
    "encoder_block_types": _STAGES,
    "decoder_block_types": _STAGES,
    "encoder_layers_per_block": (0, 4, 8, 2, 2, 2),
    "decoder_layers_per_block": (0, 5, 10, 2, 2, 2),
    "encoder_qkv_multiscales": ((),) * 6,
    "decoder_qkv_multiscales": ((),) * 6,
}


def save_kl(folder: Path, seed: int = 0, **changes: Any) -> diffusers.AutoencoderKL:
    """SD's autoencoder: 64 px to 4 x 16 x 16, as a distribution."""
    torch.manual_seed(seed)
    return _save(diffusers.AutoencoderKL(**KL | changes), folder)


def save_dc(folder: Path, seed: int = 0) -> diffusers.AutoencoderDC:
    """DC-AE: 256 px to 8 x 128 x 128."""
    torch.manual_seed(seed)
    return _save(diffusers.AutoencoderDC(**DC), folder)


def change(model: torch.nn.Module, name: str) -> None:
    """Add to one of its parameters."""
    with torch.no_grad():
        model.get_parameter(name).add_(0.5)


def _save(model: Any, folder: Path) -> Any:
    model.save_pretrained(folder)
    return model.eval().requires_grad_(False)
