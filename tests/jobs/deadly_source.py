"""A source that kills whoever reads its row 5. Light to import: workers do."""

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from tcae_cli.errors import ImageError
from tcae_cli.sources.source import Source


class DeadlySource(Source):
    """Reading row 5 kills the process that does."""

    def __reduce__(self) -> tuple[type["DeadlySource"], tuple[Path]]:
        return type(self), (self.index_dir,)

    def read_many(self, rows: Sequence[int]) -> Iterator[bytes | ImageError]:
        for row in rows:
            if row == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            yield from super().read_many([row])
