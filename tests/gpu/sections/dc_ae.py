"""DC-AE f32c32 on the same images: how much faster our encoder is than the one it is to replace."""

from typing import Any

import torch

from tcae_cli.autoencoders.diffusers import DiffusersAutoencoder
from tcae_cli.autoencoders.runner import Runner, load_runner
from tests.gpu.findings import Findings, Setting
from tests.gpu.inputs import random_model
from tests.gpu.sections.model import encode_rate, random_pixels

# The published f32c32-in-1.0, 607 G multiply-accumulates for encoder and decoder at 256 px, as the paper counts.
_BLOCKS = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
_F32C32: dict[str, Any] = {
    "encoder_block_types": _BLOCKS,
    "decoder_block_types": _BLOCKS,
    "encoder_layers_per_block": (0, 4, 8, 2, 2, 2),
    "decoder_layers_per_block": (0, 5, 10, 2, 2, 2),
    "encoder_qkv_multiscales": ((),) * 6,
    "decoder_qkv_multiscales": ((),) * 6,
}
_SMALL: dict[str, Any] = {
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
}


def run(setting: Setting, findings: Findings) -> None:
    """Encode a batch with both, eager, in bf16 and in float32; without diffusers, say so."""
    try:
        from diffusers import AutoencoderDC  # slow
    except ImportError:
        findings.note("not run", "diffusers is not installed; pip install 'tcae[diffusers]'")
        return
    device = torch.device(setting.device)
    torch.manual_seed(0)
    dc_ae = DiffusersAutoencoder(AutoencoderDC(**setting.choose(_F32C32, _SMALL))).to(device).eval()
    ours, theirs = load_runner(str(random_model(setting)), device, "bf16"), Runner("DC-AE", dc_ae, device, "bf16")
    pixels = random_pixels(setting)
    # The seconds that DC-AE needs for a batch in float32 are the reason for few repetitions.
    for precision, repeats in (("bf16", setting.choose(20, 2)), ("fp32", setting.choose(3, 2))):
        our_rate, their_rate = (encode_rate(setting, each.at(precision), pixels, repeats) for each in (ours, theirs))
        findings.note(f"{precision}, DC-AE f32c32, images/s", their_rate)
        findings.note(f"{precision}, TC-AE, images/s", our_rate)
        findings.note(
            f"{precision}, times as fast as DC-AE", our_rate / their_rate, "1.9 to 2.3; by multiply-accumulates 3.2"
        )
