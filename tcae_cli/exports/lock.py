"""A lock that admits one run of an export at a time: a second would remove or cut the unfinished files of the first."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tcae_cli.errors import DiskError
from tcae_cli.exports.provenance import NAME
from tcae_cli.runtime.files import disk_errors, open_no_link

_LOCK = f".{NAME}.lock"
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # of a file system without locks, such as Lustre by default


@contextmanager
def only_run(folder: Path, target: Path) -> Iterator[None]:
    """Make a folder and work in it alone. Raises DiskError, about `target`, if another process does."""
    with disk_errors(target):
        file = _locked(folder, target)
    with file:
        try:
            yield
        finally:
            (folder / _LOCK).unlink(missing_ok=True)  # while the lock is held, so that a waiting run notices


def _locked(folder: Path, target: Path) -> BinaryIO:
    path = folder / _LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(
            open_no_link(path, os.O_WRONLY | os.O_APPEND), "ab"
        )  # NFS locks files only if they are open for writing
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise DiskError(
                f"{target} is being written by another tcae export; wait for it to end, or name another path"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # the file belonged to another run, which has just ended
