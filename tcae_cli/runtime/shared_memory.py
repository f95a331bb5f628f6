"""Allocates memory that several processes share."""

import math
import resource

import torch
from torch import Tensor

from tcae_cli.errors import DeviceError, DiskError

_FILE = "file </torch_"  # in torch's words when there is no room for one


MORE_SHARED_MEMORY = "make it larger (docker run --shm-size), or try fewer --workers, down to 0"
_FILES, _FILES_OF_A_WORKER = 64, 16  # open at once, at most: pipes, and batches in shared memory


def prepare_for_workers(num_workers: int) -> None:
    """Let this process open the files that so many worker processes take.

    Raises DeviceError if the system does not allow so many, or if there is no shared memory for what workers send.
    """
    needed = _FILES + _FILES_OF_A_WORKER * num_workers
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < needed:
        if most != resource.RLIM_INFINITY and most < needed:
            raise DeviceError(
                f"decoding in {num_workers} processes takes {needed} open files, and only {most} are allowed; "
                f"raise their number with ulimit -n {needed}"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
    try:
        torch.UntypedStorage._new_shared(1)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f"shared memory (/dev/shm) cannot be used ({reason}); pass --workers 0, or mount it"
        ) from error


def is_full(error: Exception) -> bool:
    """Return whether an error of torch says that shared memory has no room left."""
    return _FILE in str(error)


class SharedBlocks:
    """Blocks of shared memory that are used again: the pages of a new one cost more than copying what it is to hold."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def take(self, num_bytes: int) -> Tensor:
        """Return a block of at least so many bytes, uint8, not filled. Raises RuntimeError if shared memory is full."""
        block = self._free.pop() if self._free else None
        if block is None or len(block) < num_bytes:
            block = _allocate(num_bytes, torch.uint8)
        return block

    def give_back(self, block: Tensor) -> None:
        """Let a block be taken again, now that no process reads it."""
        self._free.append(block)


def shared_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Allocate a tensor, not filled, that worker processes share, however they start, and that is sent uncopied.

    Raises DiskError if there is too little shared memory.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    try:
        allocated = _allocate(num_bytes, dtype)
    except RuntimeError as error:
        raise DiskError(
            f"could not allocate {num_bytes / 2**20:.1f} MiB of shared memory ({str(error).splitlines()[0]}); make "
            f"/dev/shm larger (docker run --shm-size), raise ulimit -n if files are too many, or share less: fewer "
            f"workers, no in_memory"
        ) from error
    return allocated.resize_(shape)


def _allocate(num_bytes: int, dtype: torch.dtype) -> Tensor:
    """Allocate a flat tensor where torch's default_collate makes its batches. Raises RuntimeError if it is full."""
    storage = torch.UntypedStorage._new_shared(num_bytes)
    return torch.empty(0, dtype=dtype).set_(storage)
