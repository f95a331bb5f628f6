"""One model on many ranks: copied (DDP) or spread over them (FSDP2), and its tensors whole again."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from tcae_cli.model.layers import Block, Blocks
from tcae_cli.recipe.schema import Recipe

_SHARDED_FROM_WIDTH = 1024  # the L preset


def prepare_blocks(module: nn.Module, recipe: Recipe) -> None:
    """Checkpointing and compilation of every transformer block, as the recipe asks; before it is distributed."""
    for stack in (part for part in module.modules() if isinstance(part, Blocks)):
        stack.checkpointing = recipe.train.checkpointing
        if recipe.train.compile:
            torch._functorch.config.donated_buffer = False  # the two objectives' gradients are compared on one graph
            for block in stack:
                block.compile()


def is_sharded(recipe: Recipe) -> bool:
    """Whether parameters are to be spread over the ranks; False for a process that stands alone."""
    wanted = recipe.train.sharded
    return dist.is_initialized() and (recipe.model.width >= _SHARDED_FROM_WIDTH if wanted is None else wanted)


def shard(module: nn.Module, *methods: str) -> None:
    """Spread a module's parameters over the ranks, block by block; `methods` may be called beside forward.

    They stay float32 on the way: autocast casts what needs it, as it does without sharding.
    """
    for block in [part for part in module.modules() if isinstance(part, Block)]:
        fully_shard(block)
    fully_shard(module, reshard_after_forward=True)  # so that averages always meet their own part
    for method in methods:
        register_fsdp_forward_method(module, method)


def copied(module: nn.Module, device: torch.device) -> nn.Module:
    """The module to call in training: with ranks beside this one, its gradients are averaged over them."""
    if not dist.is_initialized():
        return module
    return DistributedDataParallel(
        module,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )


@contextmanager
def gradients_stay_here(module: nn.Module, *, here: bool) -> Iterator[None]:
    """Inside, backward leaves gradients on this rank: for all parts of a step but the last."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(not here)
    with module.no_sync() if here and isinstance(module, DistributedDataParallel) else nullcontext():
        yield


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, which shares its memory; the tensor where it is not spread."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor; every rank has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_like(tensor: Tensor, example: Any) -> Tensor:
    """A whole tensor, spread as the example is."""
    if not isinstance(example, DTensor) or tensor.shape != example.shape:
        return tensor
    mesh = example.device_mesh
    return distribute_tensor(tensor.to(mesh.device_type), mesh, example.placements, src_data_rank=None)


@torch.no_grad()
def fill(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """load_state_dict of whole tensors into a module that may be spread."""
    own = module.state_dict()
    module.load_state_dict({name: spread_like(value, own.get(name)) for name, value in tensors.items()})
