"""Joins the ranks that work on one step together into a process group, and computes sums and means over them."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from tcae_cli.errors import DeviceError, TcaeError, UsageError
from tcae_cli.runtime import distributed

# Words of gloo and nccl when another rank is lost; they have no exception of their own for it.
_SIGNS_OF_A_LOSS = ("closed by peer", "reset by peer", "refused", "broken pipe", "nccl", "gloo", "timed out", "timeout")
# Two ranks on one GPU, as NCCL says it.
_SIGN_OF_SHARING = "duplicate gpu"
_UNTIL_ALL_ARE_READY = timedelta(hours=6)  # the first rank lists the source while the others wait
_BETWEEN_COLLECTIVES = timedelta(hours=1)  # the first rank measures the model while the others wait
_LAUNCHER_S = 3.0  # a launcher takes to end the other ranks of one that has failed


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the ranks of this launch inside the context; does nothing for a single process.

    After an error the group is not destroyed, because other ranks may be in a collective, for which NCCL would wait.
    The process should then end at once: see processes.leave. Raises UsageError if Slurm started the ranks without an
    address to meet at, DeviceError if a rank is lost.
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
            timeout=_UNTIL_ALL_ARE_READY,
            device_id=device if device.type == "cuda" else None,
        )
        yield
    dist.destroy_process_group()


def wait_for_all_ranks() -> None:
    """Wait until every rank has come here, for hours if need be; from then on a collective may take one hour."""
    if dist.is_initialized():
        dist.barrier()
        # The second is its name in torch 2.10 and 2.11.
        set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
        set_timeout(_BETWEEN_COLLECTIVES)


@contextmanager
def naming_a_lost_rank() -> Iterator[None]:
    """Turn the error of a collective whose other rank is lost, or is on the same GPU, into a DeviceError.

    A lost rank is reported after a few seconds, in which a launcher ends this process and shows that rank's own error.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, TcaeError):
            raise
        words = str(error).lower()
        if _SIGN_OF_SHARING in words:
            raise DeviceError(
                f"rank {distributed.rank()} and another rank use the same GPU; start as many ranks on a machine as it "
                f"has GPUs, or let each see a GPU of its own"
            ) from error
        if isinstance(error, dist.DistError) or any(sign in words for sign in _SIGNS_OF_A_LOSS):
            time.sleep(_LAUNCHER_S)
            raise DeviceError(
                f"rank {distributed.rank()} lost another rank of the launch ({str(error).splitlines()[0]}); "
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
