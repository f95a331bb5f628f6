"""Reads rows from shard files that are read whole, of which a few are kept in memory."""

from collections import OrderedDict
from typing import Any

import numpy as np

from tcae_cli.store.layout import shard_file
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.shard_reader import ShardReader


class ShardFiles:
    """Reads rows of a view, or their deviations, from whole shard files; keeps the last few in memory, compressed."""

    def __init__(self, store: LatentStore, most: int) -> None:
        self._store = store
        self._most = most
        self._reader = ShardReader(store.folder, store.spec, store.view)
        self._open: OrderedDict[int, Any] = OrderedDict()  # by shard number; the last used is at the end

    def row(self, row: int) -> np.ndarray:
        """Return the values of an ok row, [c, h, w], in the store's dtype. Raises StoreError on damage."""
        number, slot = divmod(row, self._store.spec.rows_per_shard)
        try:
            chunk = self._shard(number).chunk(slot)
        except FileNotFoundError:
            chunk = None
        if chunk is None:
            raise self._store.lost(row)
        return self._reader.stored(row, chunk)

    def _shard(self, number: int) -> Any:
        if number not in self._open:
            if len(self._open) == self._most:
                self._open.popitem(last=False)
            # A large object is fetched in parts, which must be those of one file.
            self._open[number] = self._reader.unless_replaced([number], lambda: self._fetch(number))
        self._open.move_to_end(number)
        return self._open[number]

    def _fetch(self, number: int) -> Any:
        name = shard_file(self._store.spec, self._store.view, number)
        return self._reader.whole(number, self._store.folder.read(name))
