"""Labels and captions that are brought up to date: all or none, for every reader, whenever the work is cut short."""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import zarr

from tcae_cli.errors import StoreError
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.store.buckets import update_metadata
from tcae_cli.store.check_shard import ShardChecker
from tcae_cli.store.commit import finalise, reopen_failed, reopen_unless_whole
from tcae_cli.store.handle import fit_arrays
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.update import find_outdated, updated_spec

from .conftest import known_latents, write_shards
from .test_commit import Kill, die_at, files_of, opened, record_of

NUM_ROWS = 40  # three shards, the last of them short


@dataclass(frozen=True)
class Source:
    """A source with these labels and captions."""

    first_label: int = 7
    captions: str = ""  # before the number of a row
    has_captions: bool = False

    def labels(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop, dtype=np.int64) + self.first_label

    def caption(self, row: int) -> str:
        return f"{self.captions} {row}" if self.has_captions else ""


PLAIN = Source(first_label=7)
CAPTIONED = Source(first_label=100, captions="a photograph of", has_captions=True)


def update(path: Path, source: Source, *class_names: str) -> None:
    """Does what the command does between its lease and its report."""
    store = opened(path)
    fit_arrays(store)
    identity = store.spec.source.model_copy(update={"class_names": list(class_names) or ["a", "b"]})
    update_metadata(store, updated_spec(store, identity, source, False), {"": source}, lambda: None)


def described(path: Path) -> tuple[list[int], list[str], list[str]]:
    """Labels, captions and class names as a reader that opens the store now finds them."""
    with warnings.catch_warnings(action="ignore"):  # the store may be incomplete
        store = LatentStore(path)
    return store.labels().tolist(), store.captions(range(NUM_ROWS)), store.spec.source.class_names


def described_plainly(path: Path) -> tuple[list[int], list[str]]:
    group = zarr.open_group(path, mode="r")
    captions = [str(text) for text in group["captions"][:]] if "captions" in group else [""] * NUM_ROWS
    return group["labels"][:].tolist(), captions


def of(source: Source) -> tuple[list[int], list[str]]:
    return source.labels(0, NUM_ROWS).tolist(), [source.caption(row) for row in range(NUM_ROWS)]


def problems(path: Path) -> list[str]:
    return [problem for shard in range(3) for problem in ShardChecker(opened(path)).check(shard).problems]


@pytest.mark.parametrize("source", [PLAIN, CAPTIONED], ids=["labels", "labels and captions"])
@pytest.mark.parametrize("has_captions", [False, True])
def test_every_reader_finds_the_new_ones_and_all_else_as_it_was(make_store, source, has_captions):
    path = make_store(failed={3}, has_captions=has_captions)
    before = {
        name: data
        for name, data in files_of(path).items()
        if not name.startswith((".tcae", "zarr.json", "labels", "c"))
    }
    for _ in range(3):  # and so again, over what the one before has left
        update(path, source, "x", "y")
        assert described(path) == (*of(source), ["x", "y"])
        assert described_plainly(path) == of(source)
        assert problems(path) == [] and opened(path).is_complete
    assert before.items() <= files_of(path).items()


def test_what_differs_is_counted_without_writing(make_store):
    path = make_store(has_captions=True)
    update(path, CAPTIONED)
    before = files_of(path)
    assert find_outdated(opened(path), CAPTIONED) == (0, 0)
    assert find_outdated(opened(path), Source(101, "a photograph of", has_captions=True)) == (40, 0)
    assert find_outdated(opened(path), Source(100)) == (0, 40)
    assert files_of(path) == before


@pytest.mark.parametrize("number", range(8))
def test_a_kill_at_any_write_leaves_all_the_old_or_all_the_new(make_store, monkeypatch, number):
    path = make_store()
    update(path, PLAIN, "a", "b")
    with monkeypatch.context() as patch:
        die_at(patch, number, "write", "remove", "create")
        with pytest.raises(Kill):
            update(path, CAPTIONED, "b", "a")
            raise Kill  # the last number is past the end

    assert described(path) in ((*of(PLAIN), ["a", "b"]), (*of(CAPTIONED), ["b", "a"]))
    assert problems(path) == []
    reopen_unless_whole(opened(path))
    assert opened(path).is_complete and write_shards(path, range(3)) == []

    fit_arrays(opened(path))  # as each process that writes does it
    labels, captions, _ = described(path)
    assert described_plainly(path) == (labels, captions)
    update(path, CAPTIONED, "b", "a")
    assert described(path) == (*of(CAPTIONED), ["b", "a"]) and described_plainly(path) == of(CAPTIONED)
    assert not any(len(record_of(path, shard).files) != 8 for shard in range(3)) and problems(path) == []


@pytest.mark.parametrize("number", range(17))
def test_a_kill_between_any_two_names_leaves_arrays_that_are_whole(make_store, monkeypatch, number):
    path = make_store(has_captions=True)
    update(path, PLAIN)
    renames = iter(range(10**6))
    replace = os.replace

    def dying(*names):
        if next(renames) >= number:
            raise Kill
        replace(*names)

    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr("os.replace", dying)
        update(path, CAPTIONED)
        raise Kill

    # The root of a complete store has copies of the arrays' metadata. Arrays that are opened by themselves take turns.
    assert described_plainly(path) in (of(PLAIN), of(CAPTIONED))
    labels, captions = (zarr.open_array(path / name, mode="r")[:].tolist() for name in ("labels", "captions"))
    assert labels in (of(PLAIN)[0], of(CAPTIONED)[0]) and captions in (of(PLAIN)[1], of(CAPTIONED)[1])
    assert described(path)[:2] in (of(PLAIN), of(CAPTIONED))


def test_a_store_that_is_open_keeps_its_labels_or_says_to_open_it_again(make_store):
    path = make_store(has_captions=True)
    store, array = LatentStore(path), zarr.open_array(path / "labels", mode="r")
    old = store.labels().tolist()
    update(path, CAPTIONED)
    for read in (store.labels, lambda: store.captions([0])):
        with pytest.raises(
            StoreError, match=r"labels and captions of .*store\.zarr were updated since it was opened; o"
        ):
            read()
    assert array[:].tolist() == old  # its chunks are there until the next update
    assert np.array_equal(store.latents([5]), known_latents(40)[[5]])


def test_an_incomplete_store_is_updated_and_resumed(make_store):
    path = make_store(shards=[0, 1])
    update(path, PLAIN)
    labels, _, _ = described(path)
    assert labels[:32] == of(PLAIN)[0][:32] and labels[32:] == [-1] * 8
    assert write_shards(path, range(3)) == list(range(32, 40)) and finalise(opened(path))
    assert described(path)[0] == [*of(PLAIN)[0][:32], *(row % 2 for row in range(32, 40))]


def test_captions_that_are_lost_are_named(make_store):
    path = make_store(has_captions=True)
    (path / "captions" / "c.1").unlink()
    with pytest.raises(
        StoreError, match=r"captions/c\.1 is missing; repeat tcae encode-dataset, which encodes its shard"
    ):
        find_outdated(opened(path), CAPTIONED)


def test_failed_rows_are_tried_again_after_an_update(make_store):
    path = make_store(failed={3, 20})
    update(path, PLAIN)
    reopen_failed(opened(path), range(3))
    assert write_shards(path, range(3)) == [3, 20] and finalise(opened(path))
    assert problems(path) == [] and LatentStore(path).ok_rows.tolist() == list(range(40))


def test_a_process_that_must_not_write_any_more_leaves_all_the_old(make_store):
    path = make_store()
    old = described(path)

    def refuse() -> None:
        raise StoreError("this process's lease is gone")

    store = opened(path)
    with pytest.raises(StoreError, match="lease is gone"):
        update_metadata(store, updated_spec(store, store.spec.source, PLAIN, False), {"": PLAIN}, refuse)
    assert described(path) == old


def test_of_the_chunks_before_an_update_those_of_one_are_kept(make_store):
    path = make_store()
    for _ in range(2):
        update(path, PLAIN)
    assert set(LocalFolder(path).sizes("labels")) == {
        "labels/zarr.json",
        *(f"labels/c{separator}{shard}" for separator in "./" for shard in range(3)),
    }


def test_files_that_only_begin_as_chunks_do_stay(make_store):
    path = make_store(has_captions=True)
    own = [path / name for name in ("labels/c.0.bak", "captions/c.notes.txt", "labels/c/0.bak", "labels/c.00")]
    (path / "labels/c").mkdir()
    for file in own:
        file.write_text("mine")
    for _ in range(4):
        update(path, CAPTIONED)
    assert [file.read_text() for file in own] == ["mine"] * 4
    assert problems(path) == []
