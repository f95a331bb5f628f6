"""Checks the numbers of rows or samples that a caller asks for."""

from collections.abc import Sequence

import numpy as np

from tcae_cli.errors import UsageError


def whole_numbers(index: int | Sequence[int]) -> np.ndarray:
    """Return an index or a list of them as an array of no or one axis, int64.

    Raises UsageError if they are not whole numbers: a mask, for example.
    """
    indices = np.asarray(index)
    if indices.ndim > 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise UsageError(f"an index is a whole number or a list of them, not {index!r:.60}")
    return indices.astype(np.int64, copy=False)
