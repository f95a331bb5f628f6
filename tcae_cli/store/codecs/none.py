"""Stores chunks without compression: they are the values themselves, which readers map or read in place."""

import numpy as np


class RawChunks:
    """Leaves bytes as they are; only the CRC-32C of the whole file reveals a changed byte."""

    has_checksum = False
    is_raw = True

    def compressor(self, itemsize: int) -> None:
        return None

    def encode(self, chunk: np.ndarray) -> bytes:
        return chunk.tobytes()

    def decode(self, data: bytes | bytearray) -> bytes | bytearray:
        return data
