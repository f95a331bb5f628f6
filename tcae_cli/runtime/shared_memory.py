"""Memory that several processes see."""

import math

import torch
from torch import Tensor

from tcae_cli.errors import DiskError


def shared_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor, not filled, that worker processes see, however they are started, and that goes to another uncopied.

    Raises DiskError where shared memory is too small.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    try:
        storage = torch.UntypedStorage._new_shared(num_bytes)  # what torch's default_collate makes its batches in
    except RuntimeError as error:
        raise DiskError(
            f"shared memory has no room for {num_bytes / 2**30:.1f} GiB ({str(error).splitlines()[0]}); make /dev/shm "
            f"larger (docker run --shm-size), or use fewer workers and no in_memory"
        ) from error
    return torch.empty(0, dtype=dtype).set_(storage).resize_(shape)
