"""Memory that several processes see."""

import math

import torch
from torch import Tensor

from tcae_cli.errors import DiskError


def shared_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor, not filled, that worker processes see, however they are started, and that goes to another uncopied.

    Raises DiskError where there is too little of it.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    try:
        storage = torch.UntypedStorage._new_shared(num_bytes)  # what torch's default_collate makes its batches in
    except RuntimeError as error:
        raise DiskError(
            f"{num_bytes / 2**20:.1f} MiB of shared memory are not to be had ({str(error).splitlines()[0]}); make "
            f"/dev/shm larger (docker run --shm-size), raise ulimit -n if files are too many, or share less: fewer "
            f"workers, no in_memory"
        ) from error
    return torch.empty(0, dtype=dtype).set_(storage).resize_(shape)
