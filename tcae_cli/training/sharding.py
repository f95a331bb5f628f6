"""One model on many ranks: copied (DDP) or sharded over them (FSDP2), and its tensors gathered again."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from tcae_cli.model.layers import Block, Blocks, compile_block
from tcae_cli.recipe.schema import Recipe

_LARGE_FROM_WIDTH = 1024  # the L preset


def prepare_blocks(module: nn.Module, recipe: Recipe) -> None:
    """Set checkpointing and compile every transformer block as the recipe asks; call it before distributing a model."""
    if recipe.train.compile:
        torch._functorch.config.donated_buffer = False  # the two objectives' gradients are compared on one graph
        torch._dynamo.config.optimize_ddp = False  # it would cut the graph of a block larger than a message of DDP
    for stack in (part for part in module.modules() if isinstance(part, Blocks)):
        stack.checkpointing = checkpoints_blocks(recipe)
        for block in stack if recipe.train.compile else ():
            compile_block(block)


def checkpoints_blocks(recipe: Recipe) -> bool:
    """Return whether the backward pass recomputes what blocks computed."""
    wanted = recipe.train.checkpointing
    return recipe.model.width >= _LARGE_FROM_WIDTH if wanted is None else wanted


def is_sharded(recipe: Recipe) -> bool:
    """Return whether parameters are sharded over the ranks; False for a single process."""
    return dist.is_initialized() and shards_over_ranks(recipe)


def shards_over_ranks(recipe: Recipe) -> bool:
    """Return whether parameters are to be sharded where there are several ranks."""
    wanted = recipe.train.sharded
    return recipe.model.width >= _LARGE_FROM_WIDTH if wanted is None else wanted


def shard(module: nn.Module, *methods: str) -> None:
    """Shard a module's parameters over the ranks, block by block; `methods` may be called beside forward.

    They stay float32 in communication: autocast casts what needs it, as it does without sharding.
    """
    for block in [part for part in module.modules() if isinstance(part, Block)]:
        fully_shard(block)
    fully_shard(module, reshard_after_forward=True)  # so that averaging always sees this rank's part
    for method in methods:
        register_fsdp_forward_method(module, method)


def copied(module: nn.Module, device: torch.device) -> nn.Module:
    """Return the module to call in training; with other ranks, its gradients are averaged over all of them."""
    if not dist.is_initialized():
        return module
    return DistributedDataParallel(
        module,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )


@contextmanager
def gradients_stay_here(module: nn.Module, *, here: bool) -> Iterator[None]:
    """Keep the gradients of a backward pass on this rank while `here`: for all micro-batches but the last."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(not here)
    with module.no_sync() if here and isinstance(module, DistributedDataParallel) else nullcontext():
        yield


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor, sharing its memory; the tensor itself where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a whole tensor; every rank must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_like(tensor: Tensor, example: Any) -> Tensor:
    """Return a whole tensor sharded as the example is."""
    if not isinstance(example, DTensor) or tensor.shape != example.shape:
        return tensor
    mesh = example.device_mesh
    return distribute_tensor(tensor.to(mesh.device_type), mesh, example.placements, src_data_rank=None)


@torch.no_grad()
def fill(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load a state dict of whole tensors into a module that may be sharded."""
    own = module.state_dict()
    module.load_state_dict({name: spread_like(value, own.get(name)) for name, value in tensors.items()})
