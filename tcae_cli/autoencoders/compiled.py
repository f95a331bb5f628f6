"""Compiles an encoder's transformer blocks, and describes the machine that the bits of compiled latents depend on."""

import copy

import torch

from tcae_cli.model.layers import compile_block
from tcae_cli.model.tcae import TCAE


def compiled_copy(model: TCAE) -> TCAE:
    """Return a model of the same tensors, not of copies, whose encoder's blocks are compiled, without graph breaks.

    Every new shape of images compiles graphs of its own when it is first encoded.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    compiled = copy.deepcopy(model, shared)
    for blocks in (compiled.encoder.fine_blocks, compiled.encoder.coarse_blocks):
        for block in blocks:
            # Deterministic: kernels are not chosen by their speed, which could differ from run to run.
            compile_block(block, fullgraph=True, options={"deterministic": True})
    return compiled


def compiling_device(device: torch.device) -> tuple[str, dict[str, str]]:
    """Return the model of a device and the versions of the libraries that compiled blocks run on."""
    versions = {"torch": str(torch.__version__)}
    if device.type != "cuda":
        return f"CPU with {torch.backends.cpu.get_cpu_capability()}", versions
    cudnn = torch.backends.cudnn.version()
    libraries = {"cuda": torch.version.cuda, "cudnn": cudnn and str(cudnn)}
    return torch.cuda.get_device_name(device), versions | {name: each for name, each in libraries.items() if each}
