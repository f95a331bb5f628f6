"""Trouble for decoding processes, and a source that makes it. Light to import: workers do."""

import os
import resource
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from tcae_cli.sources.source import Source

Trouble = Callable[[Path], None]  # takes the folder of the source's index


def die(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(folder: Path) -> None:
    if not (folder / "died").exists():
        (folder / "died").touch()
        die(folder)


def stop(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def die_at_once() -> None:
    die(Path())


def no_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # holds for shared memory too


class TroubledSource(Source):
    """A source that harms the process which reads certain rows, or which receives the source from another one."""

    def __init__(self, index_dir: Path, troubles: Mapping[int, Trouble], opened: Callable[[], None] | None = None):
        super().__init__(index_dir)
        self.troubles, self.opened = troubles, opened

    def __reduce__(self):
        return open_in_worker, (self.index_dir, self.troubles, self.opened)

    def _read(self, row: int) -> bytes:
        if row in self.troubles:
            self.troubles[row](self.index_dir)
        return super()._read(row)


def open_in_worker(index_dir: Path, troubles: Mapping[int, Trouble], opened: Callable[[], None] | None) -> Source:
    if opened:
        opened()
    return TroubledSource(index_dir, troubles, opened)
