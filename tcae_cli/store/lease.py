"""Claims of the processes that work on a store, kept fresh in the store itself.

A claim is stale when its process is gone (same machine) or when it was not written for a minute (another machine).
Times are compared between files of the store, so the clocks of machines do not matter.
"""

import json
import os
import socket
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
from tcae_cli.runtime.processes import is_alive, process_space
from tcae_cli.store.layout import PRIVATE_FOLDER

_FOLDER = f"{PRIVATE_FOLDER}/leases"
_JOINED, _SETTLED, _READY, _DONE = "joined", "settled", "ready", "done"  # states of a claim
_STALE_S = 60.0  # a claim of another machine that is silent for longer has nobody behind it
_HEARTBEAT_S = 10.0
_PATIENCE_S = 600.0  # a rank waits for its leader to begin on the source
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
        """Whether it makes the store ready itself."""
        return self.member == self.leader


@contextmanager
def join_store(folder: Folder, place: Place) -> Iterator["Lease"]:
    """Work on a store in this place. A folder that was made and left empty is removed again.

    Raises StoreError if a process of another launch, or one in the same place, is at work there.
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
    """The claim of one process."""

    def __init__(self, folder: Folder, place: Place) -> None:
        self.name = _claim_name(place.launch, place.member)
        self._folder, self._place = folder, place
        self._state: str | None = None  # nothing written yet
        self._is_lost = False

    def take(self) -> None:
        """Become one of those that work on the store. Raises StoreError if another launch does, and lives.

        Everybody writes a claim first and looks second, so of two that come together at least one sees the other. One
        that is settled stays; of two that are not, the smaller name waits to see whether the other had looked before.
        """
        if claim := self._live_claim(self.name):
            raise self._taken(claim)
        self._write(_JOINED)
        for name in self._claims():
            launch = name.rpartition("/")[2].removesuffix(".json").rpartition(".")[0]
            if launch == self._place.launch:
                continue
            while claim := self._live_claim(name):
                if claim["state"] != _JOINED or launch < self._place.launch:
                    raise self._taken(claim)
                time.sleep(_POLL_S)
            self._folder.remove([name])
        self._write(_SETTLED)

    def announce_ready(self) -> None:
        """Tell those this process leads that the store exists and may be continued."""
        self._write(_READY)

    def wait_for_leader(self) -> None:
        """Wait until the leader has announced it. Raises StoreError if it has stopped or does not come."""
        leader, seen = _claim_name(self._place.launch, self._place.leader), False
        patience_ends_at = time.monotonic() + _PATIENCE_S
        while time.monotonic() < patience_ends_at:
            state = self._state_of(leader)
            if state in (_READY, _DONE):
                return
            if state:
                patience_ends_at = time.monotonic() + _PATIENCE_S  # while it lives it may take as long as it needs
            elif seen:
                raise StoreError("rank 0 has stopped; its own message says why")
            seen = seen or state is not None
            time.sleep(_POLL_S)
        raise StoreError(f"rank 0 of this launch did not begin within {_PATIENCE_S:.0f} s; see its own message")

    def refresh(self) -> None:
        """Show that this process is alive; a claim that is gone stays so."""
        if self._read(self.name).get("owner") == self._folder.owner:
            self._write(self._state or _JOINED)
        else:
            self._is_lost = True

    def check(self) -> None:
        """Raise StoreError if this claim was taken away: this process stood still for so long that it seemed dead."""
        if self._is_lost:
            raise StoreError(
                f"{self._folder.uri}: this process's claim on the store is gone (it stood still for over "
                f"{_STALE_S:.0f} s, or the store was removed); repeat the command"
            )

    def leave(self, is_done: bool) -> None:
        """Give the claim up; a leader leaves word that it is done, for members that come late."""
        if is_done and self._place.is_leader and self._place.has_followers:
            self._write(_DONE)
        elif self._state and self._state != _DONE and not self._is_lost:
            with suppress(OSError):  # the store may be gone
                self._folder.remove([self.name])

    def live_owners(self) -> set[str]:
        """Return the processes that are at work on the store, by the mark of their temporary files."""
        return {str(claim["owner"]) for name in self._claims() if (claim := self._live_claim(name))}

    def _state_of(self, name: str) -> str | None:
        """Return the state of a claim of this launch; None where there is none, or its process is gone."""
        claim = self._read(name)
        if claim and claim["state"] != _DONE and self._is_gone(claim):
            claim = self._read(name)  # it may have ended as it should in between
            if claim.get("state") != _DONE:
                return None
        with suppress(FileNotFoundError):  # given up meanwhile
            # Files that an earlier launch of the same name left are older than that.
            if claim and self._age_s(name, self.name) <= _STALE_S:
                return str(claim["state"])
        return None

    def _write(self, state: str) -> None:
        self._state = state
        holder = {"state": state, "host": socket.gethostname(), "pid": os.getpid(), "processes": process_space()}
        self._put(self.name, json.dumps(holder | {"owner": self._folder.owner}).encode())

    def _put(self, name: str, data: bytes) -> None:
        """Write a file; again if a leader cleared it away meanwhile: without a claim this process seems dead."""
        for _ in range(_TIMES_CLEARED):
            try:
                return self._folder.write({name: data})
            except DiskError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
        return self._folder.write({name: data})

    def _claims(self) -> list[str]:
        return [name for name in self._folder.sizes(_FOLDER) if name.endswith(".json")]

    def _read(self, name: str) -> dict[str, Any]:
        """Return a claim; empty where there is none."""
        try:
            claim: dict[str, Any] = json.loads(self._folder.read(name))
        except FileNotFoundError:
            return {}
        return claim

    def _live_claim(self, name: str) -> dict[str, Any] | None:
        """Return a claim somebody is behind; None if nobody is."""
        claim = self._read(name)
        if not claim or claim["state"] == _DONE or self._is_gone(claim):
            return None
        probe = f"{PARTS}/{self._folder.owner}.{uuid4().hex}"  # there a kill leaves it to be cleared away
        self._put(probe, b"")
        try:
            is_stale = self._age_s(name, probe) > _STALE_S
        except FileNotFoundError:  # of the claim, or the probe was cleared away
            is_stale = not self._read(name)
        finally:
            self._folder.remove([probe])
        return None if is_stale else claim

    def _is_gone(self, claim: dict[str, Any]) -> bool:
        """Whether its process was one of this machine and is gone."""
        if not _is_here(claim):
            return False
        # Containers give the same numbers again and again: this one may be this process's own now.
        is_reused = claim["pid"] == os.getpid() and claim["owner"] != self._folder.owner
        return bool(is_reused or not is_alive(claim["pid"]))

    def _age_s(self, name: str, newer: str) -> float:
        """Return how much older one file is than another, by the store's own clock."""
        return self._folder.modified(newer) - self._folder.modified(name)

    def _taken(self, claim: dict[str, Any]) -> StoreError:
        return StoreError(
            f"{self._folder.uri} is being written by process {claim['pid']} on {claim['host']}; wait for it "
            f"to end, or stop it (a machine that died counts as gone after {_STALE_S:.0f} s)"
        )


def live_claims(folder: Folder) -> list[dict[str, Any]]:
    """Return host, pid and silence_s of those at work on a store.

    Asking writes nothing to the store, so the silence is by this machine's clock.
    """
    found = []
    for name in folder.sizes(_FOLDER):
        with suppress(FileNotFoundError):  # given up meanwhile
            claim: dict[str, Any] = json.loads(folder.read(name) or b"{}")
            silence_s = max(0.0, time.time() - folder.modified(name))
            is_live = is_alive(claim["pid"]) if claim and _is_here(claim) else silence_s <= _STALE_S
            if claim.get("state", _DONE) != _DONE and is_live:
                found.append({"host": claim["host"], "pid": claim["pid"], "silence_s": silence_s})
    return found


@contextmanager
def _kept_fresh(lease: Lease) -> Iterator[None]:
    """Write a claim again now and then, so that others see that its process is alive."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_HEARTBEAT_S):
            with suppress(OSError):  # a disk that is full, or a file system that will be back
                lease.refresh()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _claim_name(launch: str, member: str) -> str:
    return f"{_FOLDER}/{launch}.{member}.json"


def _is_here(claim: dict[str, Any]) -> bool:
    """Whether its process is, or was, one of this machine."""
    return (claim.get("host"), claim.get("processes")) == (socket.gethostname(), process_space())
