"""Encodes and decodes the chunks of side arrays in memory, as zarr-python does; callers read and write the files."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from tcae_cli.errors import StoreError
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import DAMAGED, reason_of, shard_file, side_metadata
from tcae_cli.store.spec import OK, PENDING, StoreSpec


class SideChunks:
    """Encodes and decodes one shard's rows of the side arrays of a store that exists.

    `spec` is the one that the store will have after an update, if it is not the one it has.
    """

    def __init__(self, store: StoreHandle, spec: StoreSpec | None = None) -> None:
        self._folder = store.folder
        self._spec = spec or store.spec
        self._files: dict[str, Any] = {}
        self._arrays: dict[str, zarr.Array] = {}
        self._to_buffer = default_buffer_prototype().buffer.from_bytes
        for name in self._spec.side_arrays:
            try:
                metadata = side_metadata(self._folder, self._spec, name)
                self._files[f"{name}/zarr.json"] = self._to_buffer(metadata)
                array = zarr.open_array(MemoryStore(self._files), path=name, mode="r+")
            except DAMAGED as error:
                raise StoreError(
                    f"{self._folder.uri}/{name}/zarr.json is damaged ({reason_of(error)}); remove it and repeat "
                    f"tcae encode-dataset, which writes it again"
                ) from error
            # A chunk of nothing but the fill value is a file too: a missing file has not been written yet.
            self._arrays[name] = array.with_config({"write_empty_chunks": True})

    def encode(self, name: str, shard: int, values: np.ndarray) -> bytes:
        """Return the chunk of a shard; `values` holds one value for each of its rows."""
        rows = self._spec.rows_of_shard(shard)
        self._arrays[name][rows.start : rows.stop] = values
        data: bytes = self._files.pop(shard_file(self._spec, name, shard)).to_bytes()
        return data

    def decode(self, name: str, shard: int, chunk: bytes) -> np.ndarray:
        """Return the value of each row of a shard. Raises StoreError if the chunk is damaged."""
        rows = self._spec.rows_of_shard(shard)
        file = shard_file(self._spec, name, shard)
        self._files[file] = self._to_buffer(chunk)
        try:
            return np.asarray(self._arrays[name][rows.start : rows.stop])
        except DAMAGED as error:
            raise StoreError(f"{self._folder.uri}/{file} is damaged ({reason_of(error)})") from error
        finally:
            del self._files[file]

    def status_taken_back(self, shard: int, coming: Mapping[str, np.ndarray]) -> dict[str, bytes]:
        """Return the status file of a shard in which rows that will change are pending; empty if no ok row changes.

        `coming` holds the values its side arrays will have. An attempt that was killed before its record was written
        may have marked a row ok whose image has changed or fails now: it must not be ok while its files change.
        """
        files = {name: shard_file(self._spec, name, shard) for name in ("status", "content_hash")}
        status_file, hashes_file = self._folder.read_many(list(files.values()))
        if status_file is None or hashes_file is None:
            return {}
        status = self.decode("status", shard, status_file)
        is_same = self.decode("content_hash", shard, hashes_file) == coming["content_hash"]
        is_wrong = (status == OK) & ~(is_same & (coming["status"] == OK))
        if not is_wrong.any():
            return {}
        return {files["status"]: self.encode("status", shard, np.where(is_wrong, PENDING, status).astype(np.uint8))}
