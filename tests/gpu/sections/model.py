"""The model alone: how fast it encodes images that are on the device, eager and compiled, and how exactly."""

import torch
from torch import Tensor

from tcae_cli.autoencoders.runner import Runner, load_runner
from tcae_cli.model.tcae import TCAE
from tcae_cli.runtime.device import peak_flops
from tcae_cli.training.cost import forward_flops, image_of
from tests.gpu.findings import Findings, Setting, relative_error
from tests.gpu.inputs import image_size, random_model

_EXPECTED = {
    "eager": ("1,000 to 1,450 on an H100", "about 20 %"),
    "compiled": ("about 2,000 on an H100", "about 36 %"),
}


def run(setting: Setting, findings: Findings) -> None:
    """Encode in bf16, eager and with compiled blocks, and compare both with float32."""
    runner = load_runner(str(random_model(setting)), torch.device(setting.device), "bf16")
    pixels = random_pixels(setting)
    exact = runner.at("fp32").encode(pixels)
    eager_error = 0.0
    for way in _EXPECTED:
        if way == "compiled":
            runner = runner.compiled()
        rate = encode_rate(setting, runner, pixels, repeats=setting.choose(20, 2))
        error = relative_error(runner.encode(pixels), exact)
        expected, expected_mfu = _EXPECTED[way]
        findings.note(f"{way}, images/s", rate, expected)
        if peak := peak_flops(runner.device):
            findings.note(f"{way}, MFU in %", 100 * rate * _encode_flops(runner) / peak, expected_mfu)
        limit = 0.03 if way == "eager" else 1.5 * eager_error
        findings.check(f"{way}, relative error of bf16", error, f"at most {limit:.2g}", error <= limit)
        eager_error = error


def random_pixels(setting: Setting) -> Tensor:
    """Return a batch of images on the device, uint8."""
    size = image_size(setting)
    generator = torch.Generator().manual_seed(0)
    shape = setting.choose(64, 4), 3, size, size
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(setting.device)


def encode_rate(setting: Setting, runner: Runner, pixels: Tensor, repeats: int) -> float:
    """Return how many images a second the runner encodes, by so many runs on a batch."""
    return len(pixels) / setting.seconds(lambda: runner.encode(pixels), repeats)


def _encode_flops(runner: Runner) -> float:
    assert isinstance(runner.model, TCAE)
    with torch.device("meta"):
        model = TCAE(runner.model.spec)
    return forward_flops(model.encode, image_of(model.spec.image_size))
