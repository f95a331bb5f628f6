"""Joins the ranks that work on one step together into a process group, and computes sums and means over them."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from tcae_cli.errors import DeviceError, UsageError
from tcae_cli.runtime import distributed

# Words of gloo and nccl when another rank is lost; they have no exception of their own for it.
_SIGNS_OF_A_LOSS = ("closed by peer", "reset by peer", "refused", "broken pipe", "nccl", "gloo", "timed out", "timeout")
_PATIENCE = timedelta(hours=6)  # one rank lists the source and measures the model while the others wait


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the ranks of this launch inside the context; does nothing for a single process.

    Raises UsageError if Slurm started them without an address to meet at, DeviceError if a rank is lost.
    """
    if not distributed.in_a_launch():
        yield
        return
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise UsageError(f"{missing[0]} is not set, so the ranks cannot meet; start them with torchrun, or set it")
    with naming_a_lost_rank():
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            timeout=_PATIENCE,
            device_id=device if device.type == "cuda" else None,
        )
    try:
        with naming_a_lost_rank():
            yield
    finally:
        dist.destroy_process_group()


@contextmanager
def naming_a_lost_rank() -> Iterator[None]:
    """Turn the error of a collective whose other rank is lost into a DeviceError."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in _SIGNS_OF_A_LOSS):
            rank = distributed.rank()
            raise DeviceError(
                f"rank {rank} lost another rank of the launch ({str(error).splitlines()[0]}); "
                f"see the error of that rank, and start again (training: resume from the last checkpoint with --resume)"
            ) from error
        raise


def mean_over_ranks(values: Tensor) -> Tensor:
    """Return the mean of every rank's values; for a single process, its own."""
    if not dist.is_initialized():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def add_over_ranks(tensors: Iterable[Tensor]) -> None:
    """Set tensors, in place and on any device, to the sums over all ranks."""
    if not dist.is_initialized():
        return
    for tensor in tensors:
        total = tensor.to("cuda" if dist.get_backend() == "nccl" else "cpu", copy=True)
        dist.all_reduce(total)
        tensor.copy_(total)


def sum_over_ranks(number: int) -> int:
    """Return the sum of every rank's number."""
    return _reduce(number, dist.ReduceOp.SUM)


def least_of_ranks(number: int) -> int:
    """Return the least of the ranks' numbers."""
    return _reduce(number, dist.ReduceOp.MIN)


def _reduce(number: int, operation: dist.ReduceOp.RedOpType) -> int:
    if not dist.is_initialized():
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    value = torch.tensor(number, device=device)
    dist.all_reduce(value, operation)
    return int(value)


@torch.no_grad()
def take_from_first_rank(tensors: list[Tensor]) -> None:
    """Set tensors, in place, to the values of the first rank."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, 0)
