"""Deaths of this process among its writes, for tests of jobs on local and remote stores."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tcae_cli.runtime.local_file import LocalFile
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.runtime.remote_folder import RemoteFolder


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def die_after(monkeypatch) -> Callable[[int | None], None]:
    """Lets this process end before it writes or removes one file of a store more than so many; None: never.

    Claims do not count, which a process that has died leaves in either way.
    """
    left: Iterator[int] | None = None
    rename, local_remove = LocalFile.rename, LocalFolder.remove
    write, put, remote_remove = RemoteFolder.write, RemoteFolder.put, RemoteFolder.remove

    def step(name: str) -> None:
        is_claim = any(folder in f"/{name}" for folder in ("/leases/", "/parts/"))
        if not is_claim and left is not None and next(left, None) is None:
            raise Killed

    def rename_one(self) -> None:
        step(str(self.final))
        rename(self)

    def write_each(self, *steps, check=lambda: None) -> None:
        for files in filter(None, steps):
            check()
            for name, data in files.items():
                step(name)
                write(self, {name: data})

    def put_one(self, path: Path, name: str) -> None:
        step(name)
        put(self, path, name)

    def remove_each_by(remove):
        def remove_each(self, names) -> None:
            for name in names:
                step(name)
                remove(self, [name])

        return remove_each

    monkeypatch.setattr(LocalFile, "rename", rename_one)
    monkeypatch.setattr(LocalFolder, "remove", remove_each_by(local_remove))
    monkeypatch.setattr(RemoteFolder, "write", write_each)
    monkeypatch.setattr(RemoteFolder, "put", put_one)
    monkeypatch.setattr(RemoteFolder, "remove", remove_each_by(remote_remove))

    def limit(count: int | None) -> None:
        nonlocal left
        left = None if count is None else iter(range(count))

    return limit
