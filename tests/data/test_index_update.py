"""An index made again: rows stay where they are, and what differs is told."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tcae_cli.data.index_update import SourceChanges, index_source, index_source_apart
from tcae_cli.data.source import Source, load_source
from tcae_cli.errors import ImageError, NotFoundError, SourceError

NO_CHANGES = SourceChanges()


@pytest.fixture
def index(tmp_path: Path) -> Callable[..., tuple[Source, SourceChanges]]:
    """Indexes a source over the last index made; gives the source and what differs."""
    made: list[Path] = []

    def make(uri: Path | str, append: bool = False) -> tuple[Source, SourceChanges]:
        index_dir = tmp_path / f"index-{len(made)}"
        changes = index_source(str(uri), index_dir, made[-1] if made else None, append=append)
        made.append(index_dir)
        return load_source(index_dir), changes

    return make


def keys(source: Source) -> list[str]:
    return source.keys(range(len(source)))


def test_a_first_index_has_its_rows_in_sorted_order_and_no_changes(index, make_folder, png):
    source, changes = index(make_folder({"b.png": png(), "a.png": png()}))
    assert keys(source) == ["a.png", "b.png"] and changes == NO_CHANGES and not changes


def test_a_source_that_moved_is_the_same_and_is_read_where_it_is_now(index, make_folder, png, tmp_path):
    folder = make_folder({"x/a.png": png(seed=1), "y/b.png": png(seed=2)})
    before, _ = index(folder)
    after, changes = index(folder.rename(tmp_path / "moved"))
    assert changes == NO_CHANGES and after.fingerprint == before.fingerprint
    assert after.read(1) == png(seed=2) and after.uri == str(tmp_path / "moved")


def test_new_images_come_after_the_rows_there_are_in_their_own_order(index, make_folder, png):
    before, _ = index(make_folder({"b.png": png(seed=1), "d.png": png(seed=2)}))
    folder = make_folder({"c.png": png(seed=3), "a.png": png(seed=4)})
    after, changes = index(folder, append=True)
    assert keys(after) == ["b.png", "d.png", "a.png", "c.png"]
    assert changes == SourceChanges(num_new=2, new=["a.png", "c.png"])
    assert [after.read(row) for row in range(4)] == [png(seed=seed) for seed in (1, 2, 4, 3)]
    assert after.fingerprint != before.fingerprint


def test_an_appended_source_is_the_same_when_indexed_again(index, make_folder, png):
    index(make_folder({"b/1.png": png()}))
    after, _ = index(make_folder({"a/1.png": png(), "c/1.png": png()}), append=True)
    again, changes = index(make_folder({}))
    assert changes == NO_CHANGES and keys(again) == keys(after) == ["b/1.png", "a/1.png", "c/1.png"]
    assert (again.fingerprint, again.class_names) == (after.fingerprint, after.class_names)
    assert again.labels(0, 3).tolist() == [0, 1, 2]


def test_new_classes_come_after_the_old_ones(index, make_folder, png):
    index(make_folder({"m/1.png": png(), "top.png": png()}))
    source, _ = index(make_folder({"a/1.png": png(), "z/1.png": png(), "m/2.png": png()}), append=True)
    assert source.class_names == ("m", "a", "z")
    assert keys(source) == ["m/1.png", "top.png", "a/1.png", "m/2.png", "z/1.png"]
    assert source.labels(0, 5).tolist() == [0, -1, 1, 0, 2]


def test_without_append_what_differs_gives_the_index_of_a_plain_scan(index, make_folder, png):
    index(make_folder({"m/1.png": png()}))
    source, changes = index(make_folder({"a/1.png": png()}))
    assert keys(source) == ["a/1.png", "m/1.png"] and source.class_names == ("a", "m")
    assert changes == SourceChanges(num_new=1, new=["a/1.png"])


def test_changed_and_vanished_images_are_told_and_keep_their_rows(index, make_folder, png):
    folder = make_folder({"x/a.png": b"1" * 1200, "y/b.png": png(), "z/c.png": png(seed=1)})
    before, _ = index(folder)
    (folder / "x/a.png").write_bytes(b"1" * 1234)
    (folder / "y/b.png").unlink()
    after, changes = index(folder, append=True)
    assert changes == SourceChanges(
        num_changed=1, num_vanished=1, changed=["x/a.png (1,234 bytes, was 1,200)"], vanished=["y/b.png"]
    )
    assert keys(after) == keys(before) and after.fingerprint == before.fingerprint
    assert after.labels(0, 3).tolist() == [0, 1, 2] and after.class_names == ("x", "y", "z")
    with pytest.raises(ImageError, match="No such file"):
        after.read(1)
    assert after.read(2) == png(seed=1)


def test_at_most_ten_names_are_told_of_each_kind_but_all_are_counted(index, make_folder):
    index(make_folder({f"old-{number:02}.png": b"" for number in range(12)}))
    folder = make_folder({f"new-{number:02}.png": b"" for number in range(11)})
    for path in folder.glob("old-*"):
        path.unlink()
    _, changes = index(folder)
    assert (changes.num_new, changes.num_vanished) == (11, 12)
    assert changes.new == [f"new-{number:02}.png" for number in range(10)]
    assert changes.vanished == [f"old-{number:02}.png" for number in range(10)]


def test_tars_are_compared_by_place_and_added_tars_come_after(index, make_tar, png, tmp_path):
    make_tar("1.tar", {"b.png": png(seed=1), "a.png": png(seed=2), "a.cls": b"7"})
    index(tmp_path / "1.tar")
    make_tar("0.tar", {"c.png": png(seed=3), "c.cls": b"5"})
    source, changes = index(tmp_path / "{0..1}.tar", append=True)
    assert changes == SourceChanges(num_new=1, new=["0.tar/c.png"])
    assert keys(source) == ["1.tar/b.png", "1.tar/a.png", "0.tar/c.png"]
    assert [source.read(row) for row in range(3)] == [png(seed=seed) for seed in (1, 2, 3)]
    assert source.labels(0, 3).tolist() == [-1, 7, 5]


def test_members_that_moved_or_vanished_are_not_read_from_their_old_place(index, make_tar, png, tmp_path):
    make_tar("s.tar", {"a.png": png(seed=1), "b.png": png(seed=2), "c.png": png(seed=3)})
    before, _ = index(tmp_path / "s.tar")
    make_tar("s.tar", {"b.png": png(seed=2), "c.png": png(40, 80, seed=3)})
    for _ in range(2):  # and so again, from the index with those rows in it
        after, changes = index(tmp_path / "s.tar", append=True)
        assert changes.vanished == ["s.tar/a.png"]
        assert changes.changed[0] == "s.tar/b.png (moved in its tar)" and "s.tar/c.png (" in changes.changed[1]
        assert keys(after) == keys(before) and after.fingerprint == before.fingerprint
        reasons = ["is no longer in its tar", *["has changed or moved in its tar since it was first listed"] * 2]
        for row, reason in enumerate(reasons):
            with pytest.raises(ImageError, match=reason):
                after.read(row)


def test_a_tar_copied_again_in_whole_has_its_rows_back(index, make_tar, png, tmp_path):
    tar = make_tar("s.tar", {"a.png": png(seed=1), "b.png": png(seed=2)})
    whole = tar.read_bytes()
    tar.write_bytes(whole[: whole.index(b"b.png") + 600])
    broken, _ = index(tar)
    assert "breaks off" in broken.problem(1)
    tar.write_bytes(whole)
    mended, changes = index(tar)
    assert changes == NO_CHANGES and mended.fingerprint == broken.fingerprint
    assert mended.read(1) == png(seed=2)


def test_labels_of_a_list_stay_the_numbers_they_are(index, tmp_path):
    (tmp_path / "list.txt").write_text("b.png\t4\n")
    index(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("b.png\t4\na.png\t2\n")
    source, changes = index(tmp_path / "list.txt", append=True)
    assert keys(source) == ["b.png", "a.png"] and source.labels(0, 2).tolist() == [4, 2] and changes.num_new == 1


def test_names_of_no_encoding_are_told_escaped(index, make_folder):
    folder = make_folder({"a.png": b""})
    index(folder)
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"")
    _, changes = index(folder, append=True)
    assert changes.new == [r"\xff.png"]
    _, changes = index(folder)
    assert changes == NO_CHANGES


def test_a_previous_index_of_another_version_is_refused(index, make_folder, tmp_path):
    folder = make_folder({"a.png": b""})
    index(folder)
    summary = tmp_path / "index-0/source.json"
    summary.write_text(summary.read_text().replace('"index_version": 2', '"index_version": 1'))
    with pytest.raises(SourceError, match="index-0 was made by another version of tcae"):
        index(folder)


def test_those_found_are_counted_as_they_are_found(make_folder, tmp_path):
    heard: list[int] = []
    (tmp_path / "list.txt").write_text("".join(f"{number}.png\n" for number in range(2500)))
    index_source(str(tmp_path / "list.txt"), tmp_path / "index", heard=heard.append)
    assert heard == [1000, 2000, 2500]


def test_a_process_of_its_own_makes_the_same_index(make_folder, png, tmp_path):
    folder = make_folder({"x/b.png": png(), "a.png": png()})
    assert index_source_apart(str(folder), tmp_path / "apart") == NO_CHANGES
    index_source(str(folder), tmp_path / "here")
    for path in (tmp_path / "here").iterdir():
        assert (tmp_path / "apart" / path.name).read_bytes() == path.read_bytes()
    make_folder({"0.png": png()})
    changes = index_source_apart(str(folder), tmp_path / "more", tmp_path / "apart", append=True)
    assert changes == SourceChanges(num_new=1, new=["0.png"])
    assert keys(load_source(tmp_path / "more")) == ["a.png", "x/b.png", "0.png"]


def test_an_object_store_is_indexed_by_a_process_of_its_own(put, png, tmp_path):
    index_source_apart(put({"a.png": png()}), tmp_path / "index")
    assert load_source(tmp_path / "index").read(0) == png()


def test_errors_come_out_of_the_process_as_they_are(tmp_path):
    with pytest.raises(NotFoundError, match=r"0\.tar does not exist; correct") as raised:
        index_source_apart(str(tmp_path / "0.tar"), tmp_path / "index")
    assert raised.value.exit_code == 2 and not (tmp_path / "index").exists()


def test_a_process_of_its_own_says_how_many_it_found(make_folder, tmp_path):
    told: list[int] = []
    folder = make_folder({"a.png": b"", "b.png": b""})
    index_source_apart(str(folder), tmp_path / "index", progress=told.append)
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
from tcae_cli.data.index_update import index_source_apart
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
        "import sys; from pathlib import Path; from tcae_cli.data.index_update import index_source\n"
        "for uri in sys.argv[2:]: index_source(uri, Path(sys.argv[1]))\n"
        "assert not {'torch', 'timm', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "index", *uris], check=True)
    assert keys(load_source(tmp_path / "index")) == ["a.png"]
    assert tarfile.is_tarfile(tmp_path / "0.tar")
