"""What a claim on a store says, and whose it is; how processes take and keep one is lease.py."""

import json
import socket
import time
from contextlib import suppress
from typing import Any

from tcae_cli.runtime.folder import Folder
from tcae_cli.runtime.processes import is_alive, process_space
from tcae_cli.store.layout import PRIVATE_FOLDER

LEASES_FOLDER = f"{PRIVATE_FOLDER}/leases"
STALE_S = 60.0  # a claim of another machine that is silent for longer has nobody behind it
JOINED, SETTLED, READY, DONE = "joined", "settled", "ready", "done"


def claim_name(launch: str, member: str) -> str:
    """The file of a process's claim."""
    return f"{LEASES_FOLDER}/{launch}.{member}.json"


def launch_of(name: str) -> str:
    """The launch that a claim's file belongs to."""
    return name.rpartition("/")[2].removesuffix(".json").rpartition(".")[0]


def is_here(claim: dict[str, Any]) -> bool:
    """Whether its process is, or was, one of this machine."""
    return (claim.get("host"), claim.get("processes")) == (socket.gethostname(), process_space())


def live_claims(folder: Folder) -> list[dict[str, Any]]:
    """Host, pid and silence_s of those at work on a store; nothing is written to ask, so it is by this clock."""
    found = []
    for name in folder.sizes(LEASES_FOLDER):
        with suppress(FileNotFoundError):  # given up meanwhile
            claim: dict[str, Any] = json.loads(folder.read(name) or b"{}")
            silence_s = max(0.0, time.time() - folder.modified(name))
            here = is_here(claim)
            if claim.get("state", DONE) != DONE and (is_alive(claim["pid"]) if here else silence_s <= STALE_S):
                found.append({"host": claim["host"], "pid": claim["pid"], "silence_s": silence_s})
    return found
