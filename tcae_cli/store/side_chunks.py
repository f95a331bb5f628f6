"""Chunks of the arrays beside the latents, as zarr-python makes them, in memory; writing them is left to others."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from tcae_cli.runtime.folder import Folder
from tcae_cli.store.layout import shard_file
from tcae_cli.store.spec import OK, PENDING, StoreSpec


class SideChunks:
    """Encodes and decodes one shard's rows of the side arrays of a store that exists."""

    def __init__(self, folder: Folder, spec: StoreSpec) -> None:
        self._spec = spec
        self._files: dict[str, Any] = {}
        self._arrays: dict[str, zarr.Array] = {}
        to_buffer = default_buffer_prototype().buffer.from_bytes
        for name in spec.side_arrays:
            self._files[f"{name}/zarr.json"] = to_buffer(folder.read(f"{name}/zarr.json"))
            array = zarr.open_array(MemoryStore(self._files), path=name, mode="r+")
            # A chunk of nothing but the fill value is a file too: what is absent is not written yet.
            self._arrays[name] = array.with_config({"write_empty_chunks": True})
        self._to_buffer = to_buffer

    def encode(self, name: str, shard: int, values: np.ndarray) -> bytes:
        """The chunk of a shard; values: of each of its rows."""
        rows = self._spec.rows_of_shard(shard)
        self._arrays[name][rows.start : rows.stop] = values
        data: bytes = self._files.pop(shard_file(self._spec, name, shard)).to_bytes()
        return data

    def decode(self, name: str, shard: int, chunk: bytes) -> np.ndarray:
        """The values of each row of a shard."""
        rows, file = self._spec.rows_of_shard(shard), shard_file(self._spec, name, shard)
        self._files[file] = self._to_buffer(chunk)
        values = np.asarray(self._arrays[name][rows.start : rows.stop])
        del self._files[file]
        return values

    def taken_back(self, folder: Folder, shard: int, coming: Mapping[str, np.ndarray]) -> dict[str, bytes]:
        """The status file of a shard without the rows that were ok and are not what they were; empty if there are none.

        coming: what its side arrays will be. A try that was killed before its record has said that a row is ok, and its
        image is another now, or fails: it must not be ok while its files change.
        """
        files = {name: shard_file(self._spec, name, shard) for name in ("status", "content_hash")}
        status_file, hashes_file = folder.read_many(list(files.values()))
        if status_file is None or hashes_file is None:
            return {}
        status = self.decode("status", shard, status_file)
        is_same = self.decode("content_hash", shard, hashes_file) == coming["content_hash"]
        is_wrong = (status == OK) & ~(is_same & (coming["status"] == OK))
        if not is_wrong.any():
            return {}
        return {files["status"]: self.encode("status", shard, np.where(is_wrong, PENDING, status).astype(np.uint8))}
