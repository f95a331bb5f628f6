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


_QWEN: dict[str, Any] = {
    "base_dim": 8,
    "z_dim": 4,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "latents_mean": [-0.7, 0.2, 0.3, 0.4],
    "latents_std": [2.8, 1.4, 2.3, 0.6],
}
_LTX: dict[str, Any] = {
    "latent_channels": 8,
    "block_out_channels": (8,) * 4,
    "decoder_block_out_channels": (8,) * 4,
    "layers_per_block": (1,) * 5,
    "decoder_layers_per_block": (1,) * 5,
}
_TWO_BLOCKS: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
}
# A class of diffusers and the configuration of a small model, which takes images of 32 px.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "kl": ("AutoencoderKL", KL),
    "kl of Playground": (
        "AutoencoderKL",
        KL | {"shift_factor": None, "latents_mean": [-0.7, 0.2, 0.3, 0.4], "latents_std": [2.8, 1.4, 2.3, 0.6]},
    ),
    "dc": ("AutoencoderDC", DC),
    "tiny": ("AutoencoderTiny", {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}),
    "vq": ("VQModel", _TWO_BLOCKS | {"latent_channels": 4}),
    "asymmetric": (
        "AsymmetricAutoencoderKL",
        {"down_block_out_channels": (8,), "up_block_out_channels": (8,), "norm_num_groups": 4},
    ),
    "flux2": ("AutoencoderKLFlux2", _TWO_BLOCKS | {"latent_channels": 4, "layers_per_block": 1}),
    "kvae": (
        "AutoencoderKLKVAE",
        {"channels": 32, "num_enc_blocks": 1, "num_dec_blocks": 1, "z_channels": 4, "ch_mult": (1, 1)},
    ),
    "hunyuan-image": (
        "AutoencoderKLHunyuanImage",
        {
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": 4,
            "block_out_channels": (32, 32, 32),
            "layers_per_block": 1,
            "spatial_compression_ratio": 4,
            "sample_size": 64,
            "scaling_factor": 0.75289,
        },
    ),
    "rae": (
        "AutoencoderRAE",
        {
            "encoder_hidden_size": 64,
            "encoder_num_hidden_layers": 1,
            "encoder_input_size": 56,
            "decoder_hidden_size": 32,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 32,
            "patch_size": 8,
            "latents_mean": [[[0.1]]] * 64,
            "latents_std": [[[1.5]]] * 64,
        },
    ),
    "qwen-image": ("AutoencoderKLQwenImage", _QWEN),
    "wan2.1": ("AutoencoderKLWan", _QWEN),
    "wan2.2": (
        "AutoencoderKLWan",
        _QWEN
        | {"decoder_base_dim": 8, "is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2}
        | {"scale_factor_spatial": 16},
    ),
    "hunyuan-video": (
        "AutoencoderKLHunyuanVideo",
        {"latent_channels": 4, "block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 4},
    ),
    "hunyuan-video1.5": (
        "AutoencoderKLHunyuanVideo15",
        {"latent_channels": 4, "block_out_channels": (8,) * 5, "layers_per_block": 1},
    ),
    "ltx": ("AutoencoderKLLTXVideo", _LTX),
    "ltx0.9.1": ("AutoencoderKLLTXVideo", _LTX | {"timestep_conditioning": True}),
    "cosmos": (
        "AutoencoderKLCosmos",
        {
            "latent_channels": 4,
            "encoder_block_out_channels": (8,) * 4,
            "decode_block_out_channels": (8,) * 4,
            "num_layers": 1,
            "resolution": 64,
            "latents_mean": [-0.7, 0.1, 0.2, 0.1, 0.3, 0.1, 0.4, 0.1],  # two frames of each channel
            "latents_std": [2.8, 0.1, 1.4, 0.1, 2.3, 0.1, 0.6, 0.1],
        },
    ),
    "mochi": (
        "AutoencoderKLMochi",
        {
            "encoder_block_out_channels": (32,) * 4,
            "decoder_block_out_channels": (32,) * 4,
            "latent_channels": 12,
            "layers_per_block": (1,) * 5,
            "scaling_factor": 1.5,
        },
    ),
    "cogvideox": (
        "AutoencoderKLCogVideoX",
        {"latent_channels": 4, "block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 4},
    ),
}


def save_family(name: str, folder: Path) -> Any:
    """A model of FAMILIES, whose statistics of latents that lie in its weights are not 0 and 1."""
    class_name, config = FAMILIES[name]
    torch.manual_seed(0)
    model = getattr(diffusers, class_name)(**config)
    for key, buffer in model.named_buffers():
        if key in ("bn.running_mean", "latents_mean"):
            buffer.copy_(torch.linspace(-1, 1, buffer.numel()))
        elif key in ("bn.running_var", "latents_std"):
            buffer.copy_(torch.linspace(0.5, 2, buffer.numel()))
    return _save(model, folder)


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
