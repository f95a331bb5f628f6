"""Defines the protocol that every codec follows."""

from typing import Any, ClassVar, Protocol

import numpy as np


class ChunkCodec(Protocol):
    """Compresses chunks of latents, one sample each, as the Zarr v3 metadata of their array describes."""

    has_checksum: ClassVar[bool]  # whether decoding notices that a chunk was changed
    is_raw: ClassVar[bool]  # whether a chunk is the values' own bytes

    def compressor(self, itemsize: int) -> Any:
        """Return the `compressors` argument of zarr.create_array; `itemsize` is the size of a value in bytes."""

    def encode(self, chunk: np.ndarray) -> bytes:
        """Return the compressed bytes of a contiguous array."""

    def decode(self, data: bytes | bytearray) -> bytes | bytearray:
        """Return the bytes of the array that was encoded. Raises RuntimeError or ValueError if data is damaged."""
