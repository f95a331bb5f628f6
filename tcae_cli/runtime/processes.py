"""Names processes, tells whether one is alive, and ends this one with its parent or at once."""

import multiprocessing
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

_STARTED = uuid4().hex[:12]


def leave_with_the_parent() -> None:
    """Wait for the parent process to end, even by kill -9, and end with it; to be run in a thread of its own."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def leave(exit_code: int) -> NoReturn:
    """End this process at once, without waiting for its threads, or for its objects to be destroyed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def is_in_a_group() -> bool:
    """Return whether this process still belongs to a process group, as it does after an error in one.

    It should then end by `leave`: Python would destroy the group, which can wait for the other ranks for ever.
    """
    dist = sys.modules.get("torch.distributed")  # importing torch takes seconds, and without it there is no group
    return dist is not None and dist.is_available() and dist.is_initialized()


def this_process() -> str:
    """Return a name that only this process has: process numbers repeat, in containers and after a while."""
    return f"{_STARTED}-{os.getpid()}"  # a forked one has another number


def process_space() -> str:
    """Return the name of the space of this process's number, as far as the system tells it.

    Containers and machines share host names. The first namespace is called alike on every machine, so the name has the
    machine's boot too.
    """
    known = []
    with suppress(OSError):
        known.append(os.readlink("/proc/self/ns/pid"))
    with suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    return " ".join(known)


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
