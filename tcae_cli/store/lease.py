"""Who is at work on a store: files that live processes keep fresh, on any file system the machines share.

A claim is stale when its process is gone (same machine) or it was not touched for a minute (another machine). Times are
compared between files, so clocks of machines do not matter.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from tcae_cli.errors import StoreError
from tcae_cli.runtime.files import make_folder, write_atomic
from tcae_cli.store.layout import PRIVATE_FOLDER

_LEASES_FOLDER = f"{PRIVATE_FOLDER}/leases"
_HEARTBEAT_S = 10.0
_STALE_S = 60.0
_PATIENCE_S = 600.0  # a rank waits for rank 0 to scan the source
_POLL_S = 0.05

_THIS_PROCESS = uuid4().hex
_JOINED, _SETTLED, _READY, _DONE = "joined", "settled", "ready", "done"


@contextmanager
def join_store(store: Path, launch: str, rank: int, world_size: int) -> Iterator["Lease"]:
    """Be rank `rank` of a launch that works on a store. What it made and left empty is removed again.

    Raises StoreError if a process of another launch, or the same rank of this one, is at work there.
    """
    folder = store / _LEASES_FOLDER
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    lease = Lease(folder, launch, rank, world_size)
    try:
        lease.take(store)
        with _kept_fresh(lease.path):
            yield lease
            lease.leave(_DONE)
    finally:
        lease.leave(None)
        for path in made:
            with suppress(OSError):  # not empty
                path.rmdir()


class Lease:
    """The claim of one rank."""

    def __init__(self, folder: Path, launch: str, rank: int, world_size: int) -> None:
        self.path = folder / f"{launch}.{rank}.json"
        self._launch, self._world_size = launch, world_size

    def announce_ready(self) -> None:
        """Tell the other ranks that the store is there and may be continued."""
        self.write(_READY)

    def wait_for_rank_zero(self) -> None:
        """Wait until rank 0 has announced it. Raises StoreError if rank 0 has stopped or does not come."""
        rank_zero = self.path.with_name(f"{self._launch}.0.json")
        seen = False
        patience_ends_at = time.monotonic() + _PATIENCE_S
        while time.monotonic() < patience_ends_at:
            state = _state(rank_zero)
            # What an earlier launch of the same name left is older than that.
            if state in (_READY, _DONE) and _age_s(rank_zero, self.path) <= _STALE_S:
                return
            if seen and state is None:
                raise StoreError("rank 0 has stopped; its own message says why")
            seen = seen or state is not None
            time.sleep(_POLL_S)
        raise StoreError(f"rank 0 of this launch did not begin within {_PATIENCE_S:.0f} s; see its own message")

    def take(self, store: Path) -> None:
        """Become the launch that works on the store. Raises StoreError if another one is, and lives.

        Everybody writes a claim first and looks second, so of two that come together at least one sees the other. One
        that is settled stays; of two that are not, the smaller name waits to see whether the other had looked before.
        """
        if self.path.exists() and not self._is_stale(self.path):
            raise _taken(store, self.path)
        self.write(_JOINED)
        for path in self.path.parent.glob("*.json"):
            if _launch_of(path) == self._launch:
                continue
            while not self._is_stale(path):
                if _state(path) != _JOINED or _launch_of(path) < self._launch:
                    raise _taken(store, path)
                time.sleep(_POLL_S)
            path.unlink(missing_ok=True)
        self.write(_SETTLED)

    def _is_stale(self, path: Path) -> bool:
        """Whether nobody is behind a claim any more."""
        claim = _read(path)
        if claim.get("state") == _DONE or not path.exists():
            return True
        here = claim.get("host") == socket.gethostname() and claim.get("processes") == _processes()
        pid = claim.get("pid")
        if here and isinstance(pid, int) and (_is_reused(pid, claim) or not _is_alive(pid)):
            return True
        probe = self.path.with_name(f".{uuid4().hex}.probe")
        probe.touch()
        try:
            return _age_s(path, probe) > _STALE_S
        except FileNotFoundError:
            return True
        finally:
            probe.unlink()

    def write(self, state: str) -> None:
        """Say where this rank is."""
        write_atomic(self.path, _claim(state))

    def leave(self, state: str | None) -> None:
        """Give the claim up; rank 0 leaves word that it is done, for ranks that come late."""
        if state is None:
            if _state(self.path) != _DONE:
                self.path.unlink(missing_ok=True)
        elif self._world_size > 1 and self.path.name == f"{self._launch}.0.json":
            self.write(state)


@contextmanager
def _kept_fresh(path: Path) -> Iterator[None]:
    """Touch a claim now and then, so that others see its process is alive."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_HEARTBEAT_S):
            with suppress(OSError):  # gone, or a file system that will be back
                os.utime(path)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _claim(state: str) -> bytes:
    holder = {"state": state, "host": socket.gethostname(), "pid": os.getpid(), "processes": _processes()}
    return json.dumps(holder | {"process": _THIS_PROCESS}).encode()


def _processes() -> str:
    """Where a process number means the same process: containers share host names."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read(path: Path) -> dict[str, object]:
    """A claim; empty while it is being written."""
    try:
        claim = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return claim if isinstance(claim, dict) else {}


def _state(path: Path) -> object:
    return _read(path).get("state")


def _taken(store: Path, path: Path) -> StoreError:
    claim = _read(path)
    return StoreError(
        f"{store} is being written by process {claim.get('pid')} on {claim.get('host')}; wait for it to end, "
        f"or stop it (a machine that died counts as gone after {_STALE_S:.0f} s)"
    )


def _launch_of(path: Path) -> str:
    return path.name.removesuffix(".json").rpartition(".")[0]


def _is_reused(pid: int, claim: dict[str, object]) -> bool:
    """Whether the number is this process's own now: containers give the same numbers again and again."""
    return pid == os.getpid() and claim.get("process") != _THIS_PROCESS


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _age_s(path: Path, newer: Path) -> float:
    """How much older one file is than another, by the file system's own clock."""
    return newer.stat().st_mtime - path.stat().st_mtime
