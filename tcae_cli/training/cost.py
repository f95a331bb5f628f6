"""The cost of one image in a step of training, against which model FLOPs utilisation (MFU) is measured."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tcae_cli.model.layers import Blocks
from tcae_cli.model.projection_head import ProjectionHead
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import ModelSpec, Recipe, SelfDistillationSpec
from tcae_cli.runtime.device import peak_flops

FORWARD_AND_BACKWARD = 3  # times a forward: the backward pass makes two products of each


def peak_images_per_s(recipe: Recipe, device: torch.device) -> float | None:
    """Return the images a second that a GPU at its bf16 peak would train on; None where the peak is unknown."""
    peak = peak_flops(device) if recipe.train.precision == "bf16" else None
    return peak / training_flops(recipe) if peak else None


def training_flops(recipe: Recipe) -> float:
    """Return the floating-point operations of an image's matrix products and convolutions, 2 a multiply-accumulate.

    Counted are forward and backward of the reconstruction and of the student's crops, and forward of the teacher's. As
    MFU is defined (PaLM, arXiv:2204.02311, appendix B), recomputation by checkpointing does not count. Frozen loss
    networks and the adversarial game are left out, and a frozen encoder is counted as if it were trained.
    """
    flops = FORWARD_AND_BACKWARD * sum(autoencoder_flops(recipe.model))
    if (spec := recipe.loss.self_distillation) is not None:
        flops += _distillation_flops(recipe.model, spec)
    return flops


@lru_cache
def autoencoder_flops(spec: ModelSpec) -> tuple[float, float]:
    """Return the operations of encoding an image, and of decoding one."""
    model, depths = _model_of_one_block_a_stack(spec)
    latents = torch.empty(1, spec.latent_channels, *(spec.image_size // spec.downsampling,) * 2, device="meta")
    encode_flops = forward_flops(model.encode, image_of(spec.image_size), depths)
    return encode_flops, forward_flops(model.decode, latents, depths)


def _distillation_flops(model_spec: ModelSpec, spec: SelfDistillationSpec) -> float:
    model, depths = _model_of_one_block_a_stack(model_spec)
    with torch.device("meta"):
        head = ProjectionHead(model_spec.width, spec)
    token = forward_flops(head, torch.empty(1, model_spec.width, device="meta"))
    global_crops = 2 * forward_flops(model.encoder, image_of(spec.global_size), depths)
    local_crops = spec.num_local_crops * forward_flops(model.encoder, image_of(spec.local_size), depths)

    # The teacher's head reads every patch token of the global crops, the student's those that are masked.
    patches = 2 * (spec.global_size * model_spec.coarse_grid // model_spec.image_size) ** 2
    masked = patches * spec.mask_share * sum(spec.mask_ratio) / 2  # on average
    student = global_crops + local_crops + (2 + spec.num_local_crops + masked) * token
    teacher = global_crops + (2 + patches) * token
    return FORWARD_AND_BACKWARD * student + teacher


def image_of(size: int) -> Tensor:
    """Return an image [1, 3, size, size] on the meta device."""
    return torch.empty(1, 3, size, size, device="meta")


def forward_flops(
    compute: Callable[[Tensor], object], example: Tensor, depths: Mapping[nn.Module, int] = MappingProxyType({})
) -> float:
    """Return the operations of a network on the meta device, where nothing is computed; attention as matrix products.

    depths: how many times a part counts, such as a stack that was cut to one of so many blocks.
    """
    repeated = 0

    def count(part: nn.Module, sign: int) -> None:
        nonlocal repeated
        repeated += sign * (depths[part] - 1) * counter.get_total_flops()

    hooks = [
        hook
        for part in depths
        for hook in (
            part.register_forward_pre_hook(lambda part, _: count(part, -1)),
            part.register_forward_hook(lambda part, *_: count(part, 1)),
        )
    ]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        compute(example)
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() + repeated


@lru_cache
def _model_of_one_block_a_stack(spec: ModelSpec) -> tuple[TCAE, dict[nn.Module, int]]:
    """Return the model on the meta device, and how many blocks each of its stacks has, of which one is left.

    Blocks of a stack are alike, and counting all of them would take as many times as long.
    """
    with torch.device("meta"):
        model = TCAE(spec)
    stacks = [module for module in model.modules() if isinstance(module, Blocks)]
    depths: dict[nn.Module, int] = {stack: len(stack) for stack in stacks}
    for stack in stacks:
        del stack[1:]
    return model, depths
