"""Names processes, tells whether one is alive, and ends this one with its parent."""

import multiprocessing
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

_STARTED = uuid4().hex[:12]


def leave_with_the_parent() -> None:
    """Wait for the parent process to end, even by kill -9, and end with it; to be run in a thread of its own."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def this_process() -> str:
    """Return a name that only this process has: process numbers repeat, in containers and after a while."""
    return f"{_STARTED}-{os.getpid()}"  # a forked one has another number


def process_space() -> str:
    """Return the name of the space of this process's number, since containers share host names; "" if unknown."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Return whether a process of this number is alive; a zombie process is not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError):  # no /proc
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        return state not in (b"Z", b"X")  # a container's first process often reaps no zombies
    return True
