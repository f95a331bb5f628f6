"""The lease of a process on a store, a file in it: which process it is, where it runs, and how far it is."""

import json
import os
import socket
from dataclasses import asdict, dataclass

from tcae_cli.errors import StoreError
from tcae_cli.runtime.folder import Folder
from tcae_cli.runtime.processes import is_alive, process_space
from tcae_cli.store.layout import PRIVATE_FOLDER

JOINED, SETTLED, READY, DONE = "joined", "settled", "ready", "done"  # states of a lease

_FOLDER = f"{PRIVATE_FOLDER}/leases"
_KINDS = {"state": str, "host": str, "pid": int, "processes": str, "owner": str}  # of the values in a file


@dataclass(frozen=True)
class LeaseFile:
    """The lease of one process on a store."""

    state: str
    host: str
    pid: int
    # What numbers the processes of its machine: those of a container have numbers of their own. Earlier versions wrote
    # it without the boot, so their leases count as another machine's.
    processes: str
    owner: str  # marks its temporary files

    @classmethod
    def of_this_process(cls, state: str, owner: str) -> "LeaseFile":
        """Return the lease of this process, in a state."""
        return cls(state, socket.gethostname(), os.getpid(), process_space(), owner)

    @property
    def runs_here(self) -> bool:
        """Return whether its process runs, or ran, on this machine."""
        return (self.host, self.processes) == (socket.gethostname(), process_space())

    def is_gone(self, owner: str) -> bool:
        """Return whether its process ran on this machine and has ended; `owner` is this process's own."""
        # Containers reuse process numbers: the one in the lease may now be that of this process.
        is_reused = self.pid == os.getpid() and self.owner != owner
        return self.runs_here and (is_reused or not is_alive(self.pid))

    def as_json(self) -> bytes:
        """Return the contents of its file."""
        return json.dumps(asdict(self)).encode()


def lease_name(launch: str, member: str) -> str:
    """Return the file of the lease of a process, by the name of its launch and that of its place in it."""
    return f"{_FOLDER}/{launch}.{member}.json"


def launch_of(name: str) -> str:
    """Return the name of the launch of a lease, by its file."""
    return name.removeprefix(f"{_FOLDER}/").removesuffix(".json").rpartition(".")[0]


def lease_files(folder: Folder) -> list[str]:
    """Return the files of the leases on a store."""
    return [name for name in folder.sizes(_FOLDER) if name.endswith(".json")]


def read_lease(folder: Folder, name: str) -> LeaseFile | None:
    """Return the lease in a file, None if there is none. Raises StoreError if it is damaged."""
    try:
        values = json.loads(folder.read(name))
        if not all(isinstance(values[key], kind) for key, kind in _KINDS.items()):
            raise ValueError("a value is of another kind")
        return LeaseFile(**{key: values[key] for key in _KINDS})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{folder.uri}/{name} is damaged ({error!r:.80}); remove it once no process is writing the store"
        ) from error
