"""Keeps the leases of the processes that work on a store, in the store itself.

A lease is stale if its process has ended (same machine) or if it was not rewritten for a minute (another machine).
Times are compared between files of the store, so the clocks of machines do not matter.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

from tcae_cli.errors import DiskError, StoreError
from tcae_cli.runtime.folder import Folder
from tcae_cli.runtime.local_folder import PARTS
from tcae_cli.runtime.processes import is_alive
from tcae_cli.store.lease_file import (
    DONE,
    JOINED,
    READY,
    SETTLED,
    LeaseFile,
    launch_of,
    lease_files,
    lease_name,
    read_lease,
)

_STALE_S = 60.0  # a lease of another machine that is silent for longer is stale
_HEARTBEAT_S = 10.0
_SURE_SHARE = 0.75  # of that minute a process relies on its lease; the rest is for what it is doing just then
_PATIENCE_S = 600.0  # how long a rank waits for its leader to begin
_POLL_S = 0.05
_TIMES_CLEARED = 3  # and more than twice is no coincidence
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps

Result = TypeVar("Result")


@dataclass(frozen=True)
class Place:
    """The place of a process among those that work on a store together."""

    launch: str  # the name they share
    member: str = "0"
    leader: str = "0"  # the member that makes the store ready for this one
    has_followers: bool = False

    @property
    def is_leader(self) -> bool:
        """Return whether this process makes the store ready itself."""
        return self.member == self.leader


@contextmanager
def join_store(folder: Folder, place: Place) -> Iterator["Lease"]:
    """Hold a lease on a store while the context lasts. A folder that is empty at its end is removed.

    Raises StoreError if a process of another launch, or one in the same place, is working on the store.
    """
    folder.make()
    lease = Lease(folder, place)
    try:
        lease.take()
        with _kept_fresh(lease):
            yield lease
        lease.leave(is_done=True)
    finally:
        lease.leave(is_done=False)
        with suppress(OSError):  # the network may be gone, and the error that is raised already says so
            if not folder.sizes():
                folder.remove_if_empty()


class Lease:
    """Holds the lease of one process on a store."""

    def __init__(self, folder: Folder, place: Place) -> None:
        self.name = lease_name(place.launch, place.member)
        self._folder, self._place = folder, place
        self._state: str | None = None  # nothing written yet
        self._is_lost = False
        self._sure_at = 0.0  # when no other launch could have taken this process for dead, by _CLOCK

    def take(self) -> None:
        """Take the lease. Raises StoreError if a live process of another launch, or one in this place, holds a lease.

        A place is taken by creating its lease, which only one process can. Every process first writes its lease and
        then looks for others, so of two launches that start together at least one sees the other. A settled lease
        stays; of two that are not settled, the smaller name waits until the other settles or withdraws.
        """
        self._sure_at = time.clock_gettime(_CLOCK)
        while not self._insist(partial(self._folder.create, self.name, self._in_state(JOINED))):
            former = read_lease(self._folder, self.name)
            if lease := self._live_lease(self.name):
                raise self._taken(lease)
            if former:
                self._remove(self.name, former.owner)
        self._state = JOINED
        self._outlast_others()
        self._go_on_to(SETTLED)

    def announce_ready(self) -> None:
        """Announce to the followers of this process that the store exists and is ready for them."""
        self._go_on_to(READY)

    def wait_for_leader(self) -> None:
        """Wait until the leader announces the store. Raises StoreError if it stops or does not begin within 600 s."""
        leader, seen = lease_name(self._place.launch, self._place.leader), False
        patience_ends_at = time.monotonic() + _PATIENCE_S
        while time.monotonic() < patience_ends_at:
            state = self._state_of(leader)
            if state in (READY, DONE):
                return
            if state:
                patience_ends_at = time.monotonic() + _PATIENCE_S  # a live leader may take as long as it needs
            elif seen:
                raise StoreError("rank 0 has stopped; its own message says why")
            seen = seen or state is not None
            time.sleep(_POLL_S)
        raise StoreError(f"rank 0 of this launch did not begin within {_PATIENCE_S:.0f} s; see its own message")

    def refresh(self) -> None:
        """Rewrite the lease, which shows that this process is alive; a lease that was removed is not restored.

        Raises StoreError if another launch removed it between the look at it and the writing, which took long.
        """
        began_at = time.clock_gettime(_CLOCK)
        lease = read_lease(self._folder, self.name)
        if self._is_lost or lease is None or lease.owner != self._folder.owner:
            self._is_lost = True
            return
        self._put(self.name, self._in_state(self._state or JOINED))
        if self._is_late():
            self._outlast_others()
        self._sure_at = began_at

    def check(self) -> None:
        """Raise StoreError if this lease was removed: the process stood still for so long that it seemed dead.

        One that was not rewritten for 45 s is rewritten now. Raises DiskError if it cannot be: others may have taken
        this process for dead since.
        """
        if not self._is_lost and self._is_late():
            self.refresh()
        if self._is_lost:
            raise StoreError(
                f"{self._folder.uri}: this process's lease on the store is gone (it stood still for over "
                f"{_STALE_S:.0f} s, or the store was removed); repeat the command"
            )

    def leave(self, is_done: bool) -> None:
        """Remove the lease; a leader that is done keeps it, marked so, for followers that start late."""
        if is_done and self._place.is_leader and self._place.has_followers:
            self._state = DONE
            self.refresh()
        elif self._state and self._state != DONE:
            with suppress(OSError, StoreError):  # the store may be gone, or the lease damaged
                self._remove(self.name, self._folder.owner)

    @property
    def member(self) -> str:
        """Return the place of this process among those of its launch."""
        return self._place.member

    def has_ended(self, member: str, owner: str) -> bool:
        """Return whether the lease of a process of this launch has ended: it was given back, or not kept for a minute.

        Ages are measured against this process's own lease, which is at most 10 s old.
        """
        name = lease_name(self._place.launch, member)
        lease = read_lease(self._folder, name)
        if lease is None or lease.owner != owner or lease.state == DONE or lease.is_gone(self._folder.owner):
            return True
        try:
            return self._age_s(name, self.name) > _STALE_S
        except FileNotFoundError:  # either was removed meanwhile
            return not read_lease(self._folder, name)

    def live_owners(self) -> set[str]:
        """Return the owners that mark temporary files, of all processes that are working on the store."""
        return {lease.owner for name in lease_files(self._folder) if (lease := self._live_lease(name))}

    def _state_of(self, name: str) -> str | None:
        """Return the state of a lease of this launch; None if there is no lease or its process has ended."""
        lease = read_lease(self._folder, name)
        if lease and lease.state != DONE and lease.is_gone(self._folder.owner):
            lease = read_lease(self._folder, name)  # it may have ended in order in between
            if lease is None or lease.state != DONE:
                return None
        with suppress(FileNotFoundError):  # removed meanwhile
            # Files that an earlier launch of the same name left are older than that.
            if lease and self._age_s(name, self.name) <= _STALE_S:
                return lease.state
        return None

    def _is_late(self) -> bool:
        return time.clock_gettime(_CLOCK) - self._sure_at > _SURE_SHARE * _STALE_S

    def _outlast_others(self) -> None:
        """Wait for processes of other launches that may withdraw, and remove the leases of those that have ended.

        Raises StoreError if one stays; then this process has lost its own lease.
        """
        for name in lease_files(self._folder):
            launch = launch_of(name)
            if launch == self._place.launch:
                continue
            while lease := self._live_lease(name):
                if lease.state != JOINED or launch < self._place.launch:
                    self._is_lost = True
                    raise self._taken(lease)
                time.sleep(_POLL_S)
            self._folder.remove([name])

    def _remove(self, name: str, owner: str) -> None:
        """Remove a lease if it is still that of this owner: another process may have taken the place meanwhile."""
        if (lease := read_lease(self._folder, name)) and lease.owner == owner:
            self._folder.remove([name])

    def _go_on_to(self, state: str) -> None:
        self._state = state
        self.refresh()
        self.check()

    def _in_state(self, state: str) -> bytes:
        return LeaseFile.of_this_process(state, self._folder.owner).as_json()

    def _put(self, name: str, data: bytes) -> None:
        self._insist(partial(self._folder.write, {name: data}))

    def _insist(self, write: Callable[[], Result]) -> Result:
        """Write a file, again if a leader removed its temporary file: without a lease this process seems dead."""
        for _ in range(_TIMES_CLEARED):
            try:
                return write()
            except DiskError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
        return write()

    def _live_lease(self, name: str) -> LeaseFile | None:
        """Return a lease if its process is alive, None otherwise."""
        lease = read_lease(self._folder, name)
        if not lease or lease.state == DONE or lease.is_gone(self._folder.owner):
            return None
        probe = f"{PARTS}/{self._folder.owner}.{uuid4().hex}"  # a folder that clear_leftovers empties after a kill
        self._put(probe, b"")
        try:
            is_stale = self._age_s(name, probe) > _STALE_S
        except FileNotFoundError:  # the lease or the probe was removed
            is_stale = not read_lease(self._folder, name)
        finally:
            self._folder.remove([probe])
        return None if is_stale else lease

    def _age_s(self, name: str, newer: str) -> float:
        """Return by how many seconds a file is older than another, by the store's own clock."""
        return self._folder.modified(newer) - self._folder.modified(name)

    def _taken(self, lease: LeaseFile) -> StoreError:
        return StoreError(
            f"{self._folder.uri} is being written by process {lease.pid} on {lease.host}; wait for it "
            f"to end, or stop it (a machine that died counts as gone after {_STALE_S:.0f} s)"
        )


def live_leases(folder: Folder) -> list[dict[str, Any]]:
    """Return a dict of host, pid and silence_s for each process that is working on a store.

    This writes nothing to the store, so this machine's clock measures the silence, in seconds.
    """
    found = []
    for name in lease_files(folder) if folder.can_list else ():  # nobody writes over HTTP
        lease = read_lease(folder, name)
        with suppress(FileNotFoundError):  # removed meanwhile
            silence_s = max(0.0, time.time() - folder.modified(name))
            if lease is None or lease.state == DONE:
                continue
            if is_alive(lease.pid) if lease.runs_here else silence_s <= _STALE_S:
                found.append({"host": lease.host, "pid": lease.pid, "silence_s": silence_s})
    return found


@contextmanager
def _kept_fresh(lease: Lease) -> Iterator[None]:
    """Rewrite a lease every 10 s while the context lasts, so that others see that its process is alive."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_HEARTBEAT_S):
            with suppress(OSError, StoreError):  # such as a file system that is away for a while; check() says so
                lease.refresh()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
