"""The rows that a reopened shard keeps, for its new files."""

from collections.abc import Sequence

import numpy as np

from tcae_cli.errors import StoreError
from tcae_cli.reports.failure import Failure
from tcae_cli.runtime.folder import Folder
from tcae_cli.store.layout import shard_file
from tcae_cli.store.record import ShardRecord, record_name
from tcae_cli.store.shard_reader import ShardReader
from tcae_cli.store.side_chunks import SideChunks
from tcae_cli.store.spec import FAILED, OK, StoreSpec


class KeptRows:
    """Reads the rows that a reopened shard keeps, from its files."""

    def __init__(self, folder: Folder, spec: StoreSpec, side: SideChunks, record: ShardRecord) -> None:
        self._first_row = record.first_row
        self._failures = {failure.row: failure for failure in record.failures}
        self._readers = {view: ShardReader(folder, spec, view) for view in spec.latent_arrays}
        self._side: dict[str, np.ndarray] = {}
        for name in ("content_hash", "original_size", *(spec.crop_name(size) for size in spec.sizes)):
            chunk = folder.read(shard_file(spec, name, record.shard))
            self._side[name] = side.decode(name, record.shard, chunk)
        self._advice = f"; remove {folder.uri}/{record_name(record.shard)} and repeat: its shard is then encoded again"

    def latents(self, view: str, row: int) -> tuple[bytes, np.ndarray]:
        """Return the chunk of an ok row and its values. Raises StoreError if it is damaged or missing."""
        try:
            chunk = self._readers[view].chunk(row)
            if chunk is None:
                raise StoreError(f"the latents of row {row} are gone")
            return chunk, self._readers[view].stored(row, chunk)
        except StoreError as error:
            raise StoreError(f"{error}{self._advice}") from error

    def take_side(self, rows: Sequence[int], side: dict[str, np.ndarray]) -> list[Failure]:
        """Fill the side arrays of a shard for these rows, and return the failures among them."""
        slots = np.array(rows, np.int64) - self._first_row
        for name, values in self._side.items():
            side[name][slots] = values[slots]
        side["status"][slots] = [FAILED if row in self._failures else OK for row in rows]
        return [self._failures[row] for row in rows if row in self._failures]
