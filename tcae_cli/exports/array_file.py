"""NumPy's file format, in memory."""

from io import BytesIO

import numpy as np


def npy_bytes(array: np.ndarray) -> bytes:
    """Return a .npy file of an array."""
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def npy_head(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Return the bytes of a .npy file that come before the values of an array of this shape."""
    buffer = BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()
