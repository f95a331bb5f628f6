"""Writes the file of one latents shard: compressed chunks in order, then their index (Zarr v3 sharding-indexed).

Format: inner chunks back to back; then for each a little-endian uint64 offset and size, 2**64 - 1 twice where absent;
then the CRC-32C of that index. Source: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/.
zarr-python reads and writes the same files, but takes about 1 ms a chunk.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import google_crc32c
import numpy as np

from tcae_cli.runtime.checksums import CRC_BYTES, crc32c_of
from tcae_cli.runtime.folder import FileInProgress
from tcae_cli.store.record import FileRecord

ABSENT = 2**64 - 1
_BLOCK_BYTES = 2**20  # written at a time
_BLOCKS_WAITING = 2  # to be written, at most: memory does not grow where the disk is slow


class ShardFileWriter:
    """Appends chunks to a file that is published once it is complete.

    A thread of its own writes them, a block at a time, so that compression does not wait for the disk.
    """

    def __init__(self, file: FileInProgress, num_chunks: int) -> None:
        self._file = file
        self._num_chunks = num_chunks
        self._sizes: list[int] = []  # of each chunk so far; -1 where there is none
        self._size = 0
        self._checksum = google_crc32c.Checksum()
        self._block: list[bytes] = []  # chunks not written yet
        self._block_bytes = 0
        self._thread = ThreadPoolExecutor(1, "shard file")
        self._writing: deque[Future[None]] = deque()
        self._is_finished = False

    def append(self, chunk: bytes | None) -> None:
        """Append the next chunk, compressed; None leaves its slot empty, and readers see the fill value."""
        if chunk is None:
            self._sizes.append(-1)
        else:
            self._sizes.append(len(chunk))
            self._write(chunk)

    def finish(self) -> None:
        """Write the index after the last chunk, and begin to make the file durable."""
        # The chunks lie back to back, so their sizes give their offsets.
        sizes = np.array(self._sizes, np.int64)
        slots = np.flatnonzero(sizes >= 0)
        ends = np.cumsum(sizes[slots])
        offsets_and_sizes = np.full((self._num_chunks, 2), ABSENT, "<u8")
        offsets_and_sizes[slots, 0] = ends - sizes[slots]
        offsets_and_sizes[slots, 1] = sizes[slots]
        index = offsets_and_sizes.tobytes()

        self._write(index)
        self._write(crc32c_of(index).to_bytes(CRC_BYTES, "little"))
        self._hand_over()

        self._writing.append(self._thread.submit(self._file.seal))
        self._is_finished = True

    def seal(self) -> FileRecord:
        """Wait until the file is complete and durable, and return its record; the file is not visible yet."""
        if not self._is_finished:
            self.finish()
        self._wait(0)
        self._thread.shutdown()
        return FileRecord(size=self._size, crc32c=int.from_bytes(self._checksum.digest(), "big"))

    def publish(self) -> None:
        """Rename the file to its name in the store, which makes it visible."""
        self._file.publish()

    def discard(self) -> None:
        """Remove the temporary file with all chunks written so far."""
        self._thread.shutdown()
        self._file.discard()

    def _write(self, data: bytes) -> None:
        self._block.append(data)
        self._size += len(data)
        self._block_bytes += len(data)
        if self._block_bytes >= _BLOCK_BYTES:
            self._hand_over()

    def _hand_over(self) -> None:
        self._wait(_BLOCKS_WAITING)
        self._writing.append(self._thread.submit(self._write_block, self._block))
        self._block, self._block_bytes = [], 0

    def _write_block(self, block: list[bytes]) -> None:
        self._file.write(*block)
        self._sum_up(block)

    def _sum_up(self, block: list[bytes]) -> None:
        for data in block:
            self._checksum.update(data)

    def _wait(self, num_left: int) -> None:
        while len(self._writing) > num_left:
            self._writing.popleft().result()
