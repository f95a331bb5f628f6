"""Processes: whether one is alive, and those that belong to another one."""

import multiprocessing
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

_STARTED = uuid4().hex[:12]


def leave_with_the_parent() -> None:
    """Wait for the process that started this one to go, by kill -9 too, and go with it; for a thread of its own."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def this_process() -> str:
    """A name for this process that no other has: numbers come again, in containers and after a while."""
    return f"{_STARTED}-{os.getpid()}"  # a forked one has another number


def process_space() -> str:
    """Where a process number means the same process: containers share host names. Empty if the system does not say."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number. One that was killed and that nobody has waited for is none."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError):  # no /proc
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        return state not in (b"Z", b"X")  # a container's first process often waits for none
    return True
