"""Encodes and decodes the chunks of a view, one row each, with their checksum."""

import numpy as np

from tcae_cli.runtime.checksums import CRC_BYTES, crc32c_of
from tcae_cli.store.codecs.registry import CODECS
from tcae_cli.store.spec import StoreSpec

OTHER_CRC32C = "their CRC-32C does not match"  # of a row's latents


class RowChunks:
    """Encodes and decodes the chunks of a store as the metadata of its views describes them.

    From format version 2 on a CRC-32C follows the bytes of a codec that has no checksum of its own, as Zarr's codec
    `crc32c` appends it.
    """

    def __init__(self, spec: StoreSpec) -> None:
        self._codec = CODECS[spec.codec]()
        self.crc_bytes = CRC_BYTES if spec.has_checksums and not self._codec.has_checksum else 0
        self.has_checksum = spec.has_checksums or self._codec.has_checksum
        self.is_raw = self._codec.is_raw  # but for the CRC-32C

    def encode(self, values: np.ndarray) -> bytes:
        """Return the chunk of a contiguous array."""
        if not self.crc_bytes:
            return self._codec.encode(values)
        if self.is_raw:  # one copy less
            return b"".join((values.data, crc32c_of(values).to_bytes(CRC_BYTES, "little")))
        data = self._codec.encode(values)
        return data + crc32c_of(data).to_bytes(CRC_BYTES, "little")

    def decode(self, chunk: bytes | bytearray) -> bytes | bytearray:
        """Return the bytes of the array that was encoded. Raises RuntimeError or ValueError if the chunk is damaged."""
        if not self.crc_bytes:
            return self._codec.decode(chunk)
        data = bytes(memoryview(chunk)[:-CRC_BYTES])
        if crc32c_of(data) != int.from_bytes(chunk[-CRC_BYTES:], "little"):
            raise ValueError(OTHER_CRC32C)
        return self._codec.decode(data)
