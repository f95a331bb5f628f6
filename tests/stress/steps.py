"""The write steps of `tcae encode-dataset`, by name, and a trap that kills the process at one of them.

The product has no hooks for this: the trap wraps what gives files their names, what appends and what removes.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from tcae_cli.runtime import local_file, local_folder
from tcae_cli.store.shard_file import ShardFileWriter

FRESH, APPEND, RETRY = "fresh", "append", "retry"
ALWAYS = (FRESH, APPEND, RETRY)
REOPENING = (APPEND, RETRY)

# In the order in which a run comes to them, each with the scenarios it is a part of.
SCENARIOS_OF_STEP: dict[str, Sequence[str]] = {
    "claim written": ALWAYS,
    "stale claim removed": ALWAYS,
    "temporary file cleared": ALWAYS,
    "index file written": ALWAYS,
    "root created": (FRESH,),
    "array made": (FRESH,),
    "finished marker removed": ALWAYS,
    "root reopened": REOPENING,
    "old index removed": REOPENING,
    "array made longer": (APPEND,),
    "record reopened": (RETRY,),
    "status taken back": (FRESH, APPEND),
    "first chunk appended": ALWAYS,
    "middle chunk appended": ALWAYS,
    "last chunk appended": ALWAYS,
    "latents sealed": ALWAYS,
    "replacing record written": REOPENING,
    "latents published": ALWAYS,
    "latents_flip published": ALWAYS,
    "side array written": ALWAYS,
    "status written": ALWAYS,
    "record written": ALWAYS,
    "statistics written": ALWAYS,
    "failures written": ALWAYS,
    "finished marker made": ALWAYS,
    "root completed": ALWAYS,
    "claim given up": ALWAYS,
}
STEPS = tuple(SCENARIOS_OF_STEP)
# These exist only after a kill at a certain step before.
KILL_BEFORE = {
    "stale claim removed": ("index file written", "after"),
    "temporary file cleared": ("middle chunk appended", "after"),
    "status taken back": ("status written", "after"),
    "finished marker removed": ("root completed", "before"),
}
_ROWS_OF_SHARD = 16
_CHUNKS = {1: "first", _ROWS_OF_SHARD // 2: "middle", _ROWS_OF_SHARD: "last"}


@dataclass(frozen=True)
class Kill:
    """Where a launch is killed."""

    step: str
    when: str  # "before" or "after" it
    nth: int = 1  # time that one process comes to it
    rank: int | None = None  # the only one to be killed; None for whichever comes first
    whole_launch: bool = False  # all ranks at once


def set_trap(kill: Kill, store: Path, is_first: Callable[[], bool]) -> None:
    """Let this process die by SIGKILL at a step, if no other of its launch was first."""
    trap = _Trap(kill, is_first)

    def name_of(file: Any) -> str:
        return file.final.relative_to(store).as_posix()

    _wrap(local_file.LocalFile, "rename", trap, lambda file: _naming(name_of(file), file.final, file._temporary))
    _wrap(local_file.LocalFile, "link", trap, lambda file: _creation(name_of(file)))
    _wrap(local_file.LocalFile, "seal", trap, lambda file: _sealing(name_of(file)))
    num_appended: WeakKeyDictionary[ShardFileWriter, int] = WeakKeyDictionary()

    def appending(writer: ShardFileWriter, chunk: bytes | None) -> str | None:
        num_appended[writer] = number = num_appended.get(writer, 0) + 1
        return f"{_CHUNKS[number]} chunk appended" if number in _CHUNKS else None

    _wrap(ShardFileWriter, "append", trap, appending)
    remove_all = local_folder.LocalFolder.remove

    def remove(self: local_folder.LocalFolder, names: Sequence[str]) -> None:
        for name in names:
            with trap.around(_removal(name, self.path / name)):
                remove_all(self, [name])

    local_folder.LocalFolder.remove = remove


class _Trap:
    def __init__(self, kill: Kill, is_first: Callable[[], bool]) -> None:
        self._kill, self._is_first, self._num_times = kill, is_first, 0

    @contextmanager
    def around(self, step: str | None) -> Iterator[None]:
        is_here = step == self._kill.step
        self._num_times += is_here
        is_time = is_here and self._num_times == self._kill.nth
        if is_time and self._kill.when == "before":
            self._spring()
        yield
        if is_time and self._kill.when == "after":
            self._spring()

    def _spring(self) -> None:
        if self._is_first():
            os.kill(0 if self._kill.whole_launch else os.getpid(), signal.SIGKILL)  # 0: the process group


def _wrap(kind: type, method: str, trap: _Trap, step_of: Callable[..., str | None]) -> None:
    honest = getattr(kind, method)

    def trapped(self: Any, *args: Any) -> Any:
        with trap.around(step_of(self, *args)):
            return honest(self, *args)

    setattr(kind, method, trapped)


def _naming(name: str, final: Path, temporary: Path) -> str | None:
    """The step at which a file written under a temporary name gets its own."""
    match name.split("/"):
        case [".tcae", "index", *_]:
            return "index file written"
        case [".tcae", "leases", file] if file.endswith(".json"):
            return "claim written"
        case [".tcae", "commits", _]:
            record = json.loads(temporary.read_bytes())
            if record["replacing"]:
                return "replacing record written"
            return "record reopened" if record["reopened"] else "record written"
        case ["zarr.json"]:
            is_complete = json.loads(temporary.read_bytes())["attributes"]["complete"]
            return "root completed" if is_complete else "root reopened"
        case ["statistics" | "failures" as group, *_]:
            return f"{group} written"
        case [_, "zarr.json"]:
            return "array made longer" if final.exists() else "array made"
        case ["latents" | "latents_flip" as view, _]:
            return f"{view} published"
        case ["status", _]:
            return "status written"
        case [_, _]:
            return "side array written"
    return None


def _creation(name: str) -> str | None:
    if name == "zarr.json":
        return "root created"
    return "finished marker made" if name.startswith(".tcae/finished.") else None


def _sealing(name: str) -> str | None:
    return "latents sealed" if name.startswith(("latents/c", "latents_flip/c")) else None


def _removal(name: str, path: Path) -> str | None:
    match name.split("/"):
        case [".tcae", "part", _]:
            return "temporary file cleared"
        case [".tcae", "index", *_]:
            return "old index removed"
        case [".tcae", "leases", _]:
            with suppress(FileNotFoundError):  # another rank was first
                is_own = json.loads(path.read_bytes())["pid"] == os.getpid()
                return "claim given up" if is_own else "stale claim removed"
        case ["status", _] if path.exists():
            return "status taken back"
        case [".tcae", file] if file.startswith("finished.") and path.exists():
            return "finished marker removed"
    return None
