"""What a shard that is taken up again keeps of before."""

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
    """The rows of a shard that stay as they are, read from the files they are in."""

    def __init__(self, folder: Folder, spec: StoreSpec, side: SideChunks, record: ShardRecord) -> None:
        self._first_row = record.first_row
        self._failures = {failure.row: failure for failure in record.failures}
        self._readers = {view: ShardReader(folder, spec, view) for view in spec.views}
        names = ["content_hash", "original_size", *(spec.crop_name(size) for size in spec.sizes)]
        self._side = {
            name: side.decode(name, record.shard, folder.read(shard_file(spec, name, record.shard))) for name in names
        }
        self._advice = f"; remove {folder.uri}/{record_name(record.shard)} and repeat: its shard is then encoded again"

    def latents(self, view: str, row: int) -> tuple[bytes, np.ndarray]:
        """The chunk of an ok row and its values. Raises StoreError if it is not sound."""
        try:
            chunk = self._readers[view].chunk(row)
            if chunk is None:
                raise StoreError(f"the latents of row {row} are gone")
            return chunk, self._readers[view].stored(row, chunk)
        except StoreError as error:
            raise StoreError(f"{error}{self._advice}") from error

    def take_side(self, rows: Sequence[int], side: dict[str, np.ndarray]) -> list[Failure]:
        """Fill the side arrays of a shard for these rows, and give those that have failed."""
        slots = np.array(rows, np.int64) - self._first_row
        for name, values in self._side.items():
            side[name][slots] = values[slots]
        side["status"][slots] = [FAILED if row in self._failures else OK for row in rows]
        return [self._failures[row] for row in rows if row in self._failures]
