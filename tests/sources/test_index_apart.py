"""An index made in a process of its own: it says the same, and never outlives the one that started it."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tcae_cli.errors import NotFoundError, SourceError
from tcae_cli.jobs.update_metadata import update_store
from tcae_cli.jobs.verify import verify_store
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.store import VerifyRequest
from tcae_cli.sources.index_apart import index_source_apart
from tcae_cli.sources.index_update import PreviousIndex, index_source
from tcae_cli.sources.merged_rows import SourceChanges
from tcae_cli.sources.source import Source


def keys(source: Source) -> list[str]:
    return source.keys(range(len(source)))


def test_a_process_of_its_own_makes_the_same_index(make_folder, png, tmp_path):
    folder = make_folder({"x/b.png": png(), "a.png": png()})
    assert index_source_apart(str(folder), tmp_path / "apart") == SourceChanges()
    index_source(str(folder), tmp_path / "here")
    for path in (tmp_path / "here").iterdir():
        assert (tmp_path / "apart" / path.name).read_bytes() == path.read_bytes()
    make_folder({"0.png": png()})
    changes = index_source_apart(str(folder), tmp_path / "more", PreviousIndex(tmp_path / "apart", append=True))
    assert changes == SourceChanges(num_new=1, new=["0.png"])
    assert keys(Source(tmp_path / "more")) == ["a.png", "x/b.png", "0.png"]


@pytest.mark.usefixtures("sources_are_indexed_apart")
def test_a_store_is_made_checked_and_described_anew_from_indexes_of_such_processes(photos, tmp_path, encode):
    source, store = shutil.copytree(photos, tmp_path / "photos"), str(tmp_path / "store.zarr")
    assert encode(source, store).num_ok == 24
    (source / "animal" / "0.txt").write_text("the first")
    verification = VerifyRequest(store=store, source=str(source), num_rows=0)
    (outdated,) = verify_store(verification, Silent()).problems
    assert "animal/0.jpg" in outdated
    update_store(EncodeRequest(source=str(source), store=store, update_metadata=True), Silent())
    assert verify_store(verification, Silent()).problems == []


def test_an_object_store_is_indexed_by_a_process_of_its_own(put, png, tmp_path):
    index_source_apart(put({"a.png": png()}), tmp_path / "index")
    assert Source(tmp_path / "index").read(0) == png()


def test_errors_come_out_of_the_process_as_they_are(tmp_path):
    with pytest.raises(NotFoundError, match=r"0\.tar does not exist; correct") as raised:
        index_source_apart(str(tmp_path / "0.tar"), tmp_path / "index")
    assert raised.value.exit_code == 2 and not (tmp_path / "index").exists()


def test_a_process_of_its_own_says_how_many_it_found(make_folder, tmp_path):
    told: list[int] = []
    folder = make_folder({"a.png": b"", "b.png": b""})
    index_source_apart(str(folder), tmp_path / "index", on_progress=told.append)
    assert told == [2]


@pytest.fixture
def endless(tmp_path: Path) -> str:
    """A source whose scan does not end: its list is a pipe that nobody writes."""
    os.mkfifo(tmp_path / "list.txt")
    return str(tmp_path / "list.txt")


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_is_killed_is_told_of(endless, tmp_path):
    def kill() -> None:
        wait_for(multiprocessing.active_children)
        for child in multiprocessing.active_children():
            child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(SourceError, match=r"the process that lists its images ended unexpectedly \(exit code -9\)"):
        index_source_apart(endless, tmp_path / "index")
    killer.join()


RUN = """
import sys
from tcae_cli.sources.index_apart import index_source_apart
if __name__ == "__main__":
    print("started", flush=True)
    try:
        index_source_apart(sys.argv[1], sys.argv[2])
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.fixture
def run(endless, tmp_path) -> Iterator[subprocess.Popen[str]]:
    """A process that has started another one for a scan without end, both in a session of their own."""
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, tmp_path / "run.py", endless, tmp_path / "index"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as process:
        wait_for(lambda: in_session(process.pid, "spawn_main"))
        yield process
        process.kill()


@pytest.fixture
def scanning(run, endless) -> Iterator[None]:
    """The scan has begun: it has opened what it waits for."""
    writers: list[int] = []

    def opened() -> bool:
        with suppress(OSError):
            writers.append(os.open(endless, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    wait_for(opened)
    yield
    os.close(writers[0])


def test_the_process_ends_when_the_one_that_started_it_is_killed(run, scanning):
    run.kill()
    assert run.communicate(timeout=20) == ("started\n", "")
    wait_for(lambda: not in_session(run.pid, "spawn_main"))


def test_ctrl_c_ends_the_process_without_a_word_of_its_own(run, scanning):
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to all of them
    assert run.communicate(timeout=20) == ("started\ninterrupted\n", "")
    assert not in_session(run.pid, "spawn_main")


def test_ctrl_c_while_the_process_starts_ends_it_without_a_word(run):
    os.killpg(run.pid, signal.SIGINT)
    assert run.communicate(timeout=20) == ("started\ninterrupted\n", "")
    assert not in_session(run.pid, "spawn_main")


def in_session(session: int, words: str) -> list[int]:
    """Processes of a session whose command has these words in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile
            if os.getsid(int(process.name)) == session and words in (process / "cmdline").read_text():
                found.append(int(process.name))
    return found


def test_indexing_imports_neither_torch_nor_timm(put, make_folder, make_tar, png, tmp_path):
    make_folder({"a.png": png()})
    make_tar("0.tar", {"a.png": png()})
    (tmp_path / "list.txt").write_text("a.png")
    uris = [str(tmp_path / name) for name in ("photos", "{0..0}.tar", "list.txt")] + [put({"a.png": png()})]
    code = (
        "import sys; from pathlib import Path; from tcae_cli.sources.index_update import index_source\n"
        "for uri in sys.argv[2:]: index_source(uri, Path(sys.argv[1]))\n"
        "assert not {'torch', 'timm', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "index", *uris], check=True)
    assert keys(Source(tmp_path / "index")) == ["a.png"]
