"""Allocates memory that several processes share."""

import math

import torch
from torch import Tensor

from tcae_cli.errors import DiskError

_FILE = "file </torch_"  # in torch's words when there is no room for one


def is_full(error: Exception) -> bool:
    """Return whether an error of torch says that shared memory has no room left."""
    return _FILE in str(error)


def shared_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Allocate a tensor, not filled, that worker processes share, however they start, and that is sent uncopied.

    Raises DiskError if there is too little shared memory.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    try:
        storage = torch.UntypedStorage._new_shared(num_bytes)  # where torch's default_collate makes its batches
    except RuntimeError as error:
        raise DiskError(
            f"could not allocate {num_bytes / 2**20:.1f} MiB of shared memory ({str(error).splitlines()[0]}); make "
            f"/dev/shm larger (docker run --shm-size), raise ulimit -n if files are too many, or share less: fewer "
            f"workers, no in_memory"
        ) from error
    return torch.empty(0, dtype=dtype).set_(storage).resize_(shape)
