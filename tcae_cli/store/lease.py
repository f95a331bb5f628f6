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
from tcae_cli.runtime.files import disk_errors, write_atomic
from tcae_cli.store.layout import PRIVATE_FOLDER

_LEASES_FOLDER = f"{PRIVATE_FOLDER}/leases"
_HEARTBEAT_S = 10.0
_STALE_S = 60.0
_PATIENCE_S = 600.0  # a rank waits for rank 0 to scan the source
_POLL_S = 0.05

_JOINED, _READY, _DONE = "joined", "ready", "done"


@contextmanager
def join_store(store: Path, launch: str, rank: int, world_size: int) -> Iterator["Lease"]:
    """Be rank `rank` of a launch that works on a store. What it made and left empty is removed again.

    Raises StoreError if a process of another launch, or the same rank of this one, is at work there.
    """
    folder = store / _LEASES_FOLDER
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with disk_errors(store):
        folder.mkdir(parents=True, exist_ok=True)
    lease = Lease(folder, launch, rank, world_size)
    try:
        with exclusive(store, "join"):
            lease.refuse_if_taken(store)
            lease.write(_JOINED)
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

    def refuse_if_taken(self, store: Path) -> None:
        """Raise StoreError if somebody else's live claim is there; remove stale ones of other launches."""
        probe = _touch(self.path.with_name(f".{uuid4().hex}.probe"))
        try:
            for path in self.path.parent.glob("*.json"):
                is_ours = path.name.rpartition(".json")[0].rpartition(".")[0] == self._launch
                if is_ours and path != self.path:
                    continue
                if _state(path) != _DONE and not _is_stale(path, probe):
                    raise StoreError(
                        f"{store} is being written by {_holder_words(path)}; wait for it to end, or stop it "
                        f"(a machine that died counts as gone after {_STALE_S:.0f} s)"
                    )
                path.unlink(missing_ok=True)
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
def exclusive(store: Path, name: str) -> Iterator[None]:
    """Hold the lock `name` of a store, waiting for whoever holds it."""
    path = store / PRIVATE_FOLDER / f"{name}.lock"
    while not _acquire(path):
        time.sleep(_POLL_S)
    with _kept_fresh(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _acquire(path: Path) -> bool:
    """Create a lock file; a stale one is moved away first."""
    claim = _claim(_JOINED)
    with disk_errors(path):
        for _ in range(2):
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                probe = _touch(path.with_name(f".{uuid4().hex}.probe"))
                stale = _is_stale(path, probe)
                probe.unlink()
                if not stale:
                    return False
                aside = path.with_name(f".{uuid4().hex}.stale")
                with suppress(FileNotFoundError):  # somebody was quicker
                    path.rename(aside)
                aside.unlink(missing_ok=True)
            else:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(claim)
                return True
    return False


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
    return json.dumps(holder).encode()


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


def _holder_words(path: Path) -> str:
    claim = _read(path)
    return f"process {claim.get('pid')} on {claim.get('host')}"


def _is_stale(path: Path, probe: Path) -> bool:
    """Whether nobody is behind a claim any more; `probe` is a file touched just now."""
    claim = _read(path)
    here = claim.get("host") == socket.gethostname() and claim.get("processes") == _processes()
    pid = claim.get("pid")
    if here and isinstance(pid, int) and (pid == os.getpid() or not _is_alive(pid)):
        return True
    try:
        return _age_s(path, probe) > _STALE_S
    except FileNotFoundError:
        return True


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


def _touch(path: Path) -> Path:
    path.touch()
    return path
