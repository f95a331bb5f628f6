"""DC-AE f32c32 on the same images: how much faster our encoder is than the one it is to replace."""

import torch

from tcae_cli.autoencoders.diffusers_calls import OnImages
from tcae_cli.autoencoders.runner import Runner, load_runner
from tests.gpu.findings import Findings, Setting
from tests.gpu.inputs import random_model
from tests.gpu.sections.model import encode_rate, random_pixels


def run(setting: Setting, findings: Findings) -> None:
    """Encode a batch with both, eager, in bf16 and in float32; without diffusers, say so."""
    try:
        from diffusers import AutoencoderDC  # slow
    except ImportError:
        findings.note("not run", "diffusers is not installed; pip install 'tcae[diffusers]'")
        return
    from tests.small_diffusers import DC, DC_F32C32  # which imports diffusers

    device = torch.device(setting.device)
    torch.manual_seed(0)
    dc_ae = OnImages(AutoencoderDC(**setting.choose(DC_F32C32, DC))).to(device).eval()
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
