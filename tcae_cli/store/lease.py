"""Keeps the claims of the processes that work on a store, in the store itself.

A claim is stale if its process has ended (same machine) or if it was not rewritten for a minute (another machine).
Times are compared between files of the store, so the clocks of machines do not matter.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from tcae_cli.errors import DiskError, StoreError
from tcae_cli.runtime.folder import Folder
from tcae_cli.runtime.local_folder import PARTS
from tcae_cli.runtime.processes import is_alive
from tcae_cli.store.lease_claim import (
    DONE,
    JOINED,
    READY,
    SETTLED,
    LeaseClaim,
    claim_files,
    claim_name,
    launch_of,
    read_claim,
)

_STALE_S = 60.0  # a claim of another machine that is silent for longer is stale
_HEARTBEAT_S = 10.0
_PATIENCE_S = 600.0  # how long a rank waits for its leader to begin
_POLL_S = 0.05
_TIMES_CLEARED = 3  # and more than twice is no coincidence


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
    """Claim a store while the context lasts. A folder that is empty at its end is removed.

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
    """Holds the claim of one process on a store."""

    def __init__(self, folder: Folder, place: Place) -> None:
        self.name = claim_name(place.launch, place.member)
        self._folder, self._place = folder, place
        self._state: str | None = None  # nothing written yet
        self._is_lost = False

    def take(self) -> None:
        """Claim the store. Raises StoreError if a live process of another launch holds a claim.

        Every process first writes its claim and then looks for others, so of two that start together at least one sees
        the other. A settled claim stays; of two that are not settled, the smaller name waits until the other settles or
        withdraws.
        """
        if claim := self._live_claim(self.name):
            raise self._taken(claim)
        self._write(JOINED)
        for name in claim_files(self._folder):
            launch = launch_of(name)
            if launch == self._place.launch:
                continue
            while claim := self._live_claim(name):
                if claim.state != JOINED or launch < self._place.launch:
                    raise self._taken(claim)
                time.sleep(_POLL_S)
            self._folder.remove([name])
        self._write(SETTLED)

    def announce_ready(self) -> None:
        """Announce to the followers of this process that the store exists and is ready for them."""
        self._write(READY)

    def wait_for_leader(self) -> None:
        """Wait until the leader announces the store. Raises StoreError if it stops or does not begin within 600 s."""
        leader, seen = claim_name(self._place.launch, self._place.leader), False
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
        """Rewrite the claim, which shows that this process is alive; a claim that was removed is not restored."""
        if (claim := read_claim(self._folder, self.name)) and claim.owner == self._folder.owner:
            self._write(self._state or JOINED)
        else:
            self._is_lost = True

    def check(self) -> None:
        """Raise StoreError if this claim was removed: the process stood still for so long that it seemed dead."""
        if self._is_lost:
            raise StoreError(
                f"{self._folder.uri}: this process's claim on the store is gone (it stood still for over "
                f"{_STALE_S:.0f} s, or the store was removed); repeat the command"
            )

    def leave(self, is_done: bool) -> None:
        """Remove the claim; a leader that is done keeps it, marked so, for followers that start late."""
        if is_done and self._place.is_leader and self._place.has_followers:
            self._write(DONE)
        elif self._state and self._state != DONE and not self._is_lost:
            with suppress(OSError):  # the store may be gone
                self._folder.remove([self.name])

    @property
    def member(self) -> str:
        """Return the place of this process among those of its launch."""
        return self._place.member

    def has_ended(self, member: str, owner: str) -> bool:
        """Return whether the lease of a process of this launch has ended: it was given back, or not kept for a minute.

        Ages are measured against this process's own claim, which is at most 10 s old.
        """
        name = claim_name(self._place.launch, member)
        claim = read_claim(self._folder, name)
        if claim is None or claim.owner != owner or claim.state == DONE or claim.is_gone(self._folder.owner):
            return True
        try:
            return self._age_s(name, self.name) > _STALE_S
        except FileNotFoundError:  # either was removed meanwhile
            return not read_claim(self._folder, name)

    def live_owners(self) -> set[str]:
        """Return the owners that mark temporary files, of all processes that are working on the store."""
        return {claim.owner for name in claim_files(self._folder) if (claim := self._live_claim(name))}

    def _state_of(self, name: str) -> str | None:
        """Return the state of a claim of this launch; None if there is no claim or its process has ended."""
        claim = read_claim(self._folder, name)
        if claim and claim.state != DONE and claim.is_gone(self._folder.owner):
            claim = read_claim(self._folder, name)  # it may have ended in order in between
            if claim is None or claim.state != DONE:
                return None
        with suppress(FileNotFoundError):  # removed meanwhile
            # Files that an earlier launch of the same name left are older than that.
            if claim and self._age_s(name, self.name) <= _STALE_S:
                return claim.state
        return None

    def _write(self, state: str) -> None:
        self._state = state
        self._put(self.name, LeaseClaim.of_this_process(state, self._folder.owner).as_json())

    def _put(self, name: str, data: bytes) -> None:
        """Write a file, again if a leader removed its temporary file: without a claim this process seems dead."""
        for _ in range(_TIMES_CLEARED):
            try:
                return self._folder.write({name: data})
            except DiskError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
        return self._folder.write({name: data})

    def _live_claim(self, name: str) -> LeaseClaim | None:
        """Return a claim if its process is alive, None otherwise."""
        claim = read_claim(self._folder, name)
        if not claim or claim.state == DONE or claim.is_gone(self._folder.owner):
            return None
        probe = f"{PARTS}/{self._folder.owner}.{uuid4().hex}"  # a folder that clear_leftovers empties after a kill
        self._put(probe, b"")
        try:
            is_stale = self._age_s(name, probe) > _STALE_S
        except FileNotFoundError:  # the claim or the probe was removed
            is_stale = not read_claim(self._folder, name)
        finally:
            self._folder.remove([probe])
        return None if is_stale else claim

    def _age_s(self, name: str, newer: str) -> float:
        """Return by how many seconds a file is older than another, by the store's own clock."""
        return self._folder.modified(newer) - self._folder.modified(name)

    def _taken(self, claim: LeaseClaim) -> StoreError:
        return StoreError(
            f"{self._folder.uri} is being written by process {claim.pid} on {claim.host}; wait for it "
            f"to end, or stop it (a machine that died counts as gone after {_STALE_S:.0f} s)"
        )


def live_claims(folder: Folder) -> list[dict[str, Any]]:
    """Return a dict of host, pid and silence_s for each process that is working on a store.

    This writes nothing to the store, so this machine's clock measures the silence, in seconds.
    """
    found = []
    for name in claim_files(folder) if folder.can_list else ():  # nobody writes over HTTP
        claim = read_claim(folder, name)
        with suppress(FileNotFoundError):  # removed meanwhile
            silence_s = max(0.0, time.time() - folder.modified(name))
            if claim is None or claim.state == DONE:
                continue
            if is_alive(claim.pid) if claim.runs_here else silence_s <= _STALE_S:
                found.append({"host": claim.host, "pid": claim.pid, "silence_s": silence_s})
    return found


@contextmanager
def _kept_fresh(lease: Lease) -> Iterator[None]:
    """Rewrite a claim every 10 s while the context lasts, so that others see that its process is alive."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_HEARTBEAT_S):
            with suppress(OSError):  # the disk may be full, or the file system unavailable for a while
                lease.refresh()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
