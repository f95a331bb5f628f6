"""Versions of what is installed, and the ceilings of the machine, which other figures are to be compared with."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from tests.gpu.findings import Findings, Setting

_PACKAGES = ("torch", "triton", "timm", "torchvision", "numpy", "pillow", "zarr", "numcodecs", "diffusers")


def run(setting: Setting, findings: Findings) -> None:
    """Report versions, cores, matrix products in bf16, and the bandwidth of a copy on the device."""
    findings.note("python", platform.python_version(), "3.11 or newer")
    for name in _PACKAGES:
        findings.note(name, _version(name), "2.10 or newer" if name == "torch" else "")
    findings.note("CUDA", torch.version.cuda or "none")
    findings.note("cores", len(os.sched_getaffinity(0)))

    side = setting.choose(8192, 256)
    left, right = torch.randn(2, side, side, device=setting.device).bfloat16()
    seconds = setting.seconds(lambda: left @ right, repeats=20)
    findings.note("bf16 matrix product, TFLOP/s", 2 * side**3 / seconds / 1e12, "about 790 on an H100 or H200")

    source = torch.randn(setting.choose(2**30, 2**20), device=setting.device)
    target = torch.empty_like(source)
    seconds = setting.seconds(lambda: target.copy_(source), repeats=20)
    moved = 2 * source.numel() * source.element_size()
    findings.note("copy, TB/s read and written", moved / seconds / 1e12, "about 3.0 on an H100, 4.3 on an H200")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
