"""An index made again: rows stay where they are, and what differs is told."""

import bz2
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tcae_cli.errors import ImageError, SourceError
from tcae_cli.sources import index_update
from tcae_cli.sources.index_update import PreviousIndex, index_source
from tcae_cli.sources.listing import Entry, Listing
from tcae_cli.sources.merged_rows import SourceChanges
from tcae_cli.sources.scan import scan
from tcae_cli.sources.source import Source

from ..tables import save_arrow, with_paths, write_parquet

NO_CHANGES = SourceChanges()


@pytest.fixture
def index(tmp_path: Path) -> Callable[..., tuple[Source, SourceChanges]]:
    """Indexes a source over the last index made; gives the source and what differs."""
    made: list[Path] = []

    def make(uri: Path | str, append: bool = False) -> tuple[Source, SourceChanges]:
        index_dir = tmp_path / f"index-{len(made)}"
        changes = index_source(str(uri), index_dir, PreviousIndex(made[-1], append) if made else None)
        made.append(index_dir)
        return Source(index_dir), changes

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
        assert changes.changed[0] == "s.tar/b.png (moved in its file)" and "s.tar/c.png (" in changes.changed[1]
        assert keys(after) == keys(before) and after.fingerprint == before.fingerprint
        reasons = ["is no longer in its file", *["has changed or moved in its file since it was first listed"] * 2]
        for row, reason in enumerate(reasons):
            with pytest.raises(ImageError, match=reason):
                after.read(row)


@pytest.mark.parametrize("broken", ["cut in a header", "compressed"])
def test_a_tar_that_was_repaired_has_its_lost_images_as_new_rows(index, make_tar, png, broken):
    tar = make_tar("s.tar", {"a.png": png(seed=1), "b.png": png(seed=2)})
    whole = tar.read_bytes()
    tar.write_bytes(bz2.compress(whole) if broken == "compressed" else whole[: whole.index(b"b.png") + 100])
    before, _ = index(tar)
    lost = len(before) - 1
    assert before.key(lost).startswith("s.tar@")
    tar.write_bytes(whole)
    for _ in range(2):  # and so again, from the index with those rows in it
        after, changes = index(tar, append=True)
        assert (changes.num_vanished, changes.num_changed) == (0, 0)
        assert sorted(keys(after)) == sorted([*keys(before), *(["s.tar/a.png"] if lost == 0 else []), "s.tar/b.png"])
        assert (
            after.problem(lost) == "was a part of a tar that could not be read, whose images have rows of their own now"
        )
    assert changes == NO_CHANGES


def test_the_lost_part_of_a_tar_that_is_gone_was_not_repaired(index, make_tar, png, tmp_path):
    for name in ("s.tar", "t.tar"):
        make_tar(name, {f"{name}.png": png(seed=1)})
    (tmp_path / "t.tar").write_bytes(bz2.compress(b"not a tar"))
    before, _ = index(tmp_path / "[st].tar")
    lost = keys(before).index("t.tar@0")
    (tmp_path / "t.tar").unlink()
    after, changes = index(tmp_path / "[s].tar")
    assert changes == NO_CHANGES and after.problem(lost) == before.problem(lost)


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


def test_files_and_row_groups_added_to_a_table_come_after_its_rows(index, tmp_path):
    table = {"image": with_paths({"b.png": b"1", "c.png": b"2"}), "label": ["dog", "cat"]}
    write_parquet(tmp_path / "1.parquet", table)
    before, _ = index(tmp_path / "*.parquet")
    grown = {"image": [*table["image"], *with_paths({"a.png": b"3"})], "label": [*table["label"], "ant"]}
    write_parquet(tmp_path / "1.parquet", grown)
    write_parquet(tmp_path / "0.parquet", {"image": [{"bytes": b"4", "path": None}], "label": ["dog"]})
    after, changes = index(tmp_path / "*.parquet", append=True)
    assert changes == SourceChanges(num_new=2, new=["0.parquet/00000000", "a.png"])
    assert keys(after) == ["b.png", "c.png", "0.parquet/00000000", "a.png"]
    assert [after.read(row) for row in range(4)] == [b"1", b"2", b"4", b"3"]
    assert after.class_names == ("cat", "dog", "ant") and after.labels(0, 4).tolist() == [1, 0, 1, 2]
    assert after.fingerprint != before.fingerprint

    again, changes = index(tmp_path / "*.parquet")
    assert changes == NO_CHANGES and again.fingerprint == after.fingerprint and keys(again) == keys(after)


def test_a_row_group_that_changed_fails_its_rows_and_no_others(index, tmp_path):
    images = {f"{row}.png": b"%d" % row for row in range(6)}
    write_parquet(tmp_path / "t.parquet", {"image": with_paths(images)})
    before, _ = index(tmp_path / "t.parquet")
    write_parquet(tmp_path / "t.parquet", {"image": with_paths({**images, "2.png": b"another"})})
    after, changes = index(tmp_path / "t.parquet", append=True)
    assert changes.changed == [f"{row}.png (its row group has other sizes)" for row in (2, 3)] and changes.num_new == 0
    found = [*after.read_many(range(6))]
    assert [found[row] for row in (0, 1, 4, 5)] == [b"0", b"1", b"4", b"5"] and keys(after) == keys(before)
    assert [str(found[row]) for row in (2, 3)] == ["has changed or moved in its file since it was first listed"] * 2


def test_rows_that_vanished_from_a_table_or_moved_in_it_are_told(index, tmp_path):
    images = {f"{row}.png": b"%d" % row for row in range(6)}
    write_parquet(tmp_path / "t.parquet", {"image": with_paths(images)})
    index(tmp_path / "t.parquet")
    del images["2.png"]
    write_parquet(tmp_path / "t.parquet", {"image": with_paths(images)})
    after, changes = index(tmp_path / "t.parquet", append=True)
    assert changes.vanished == ["2.png"] and changes.num_changed == 3
    assert changes.changed[0] == "3.png (moved in its file)"
    assert [after.read(row) for row in (0, 1)] == [b"0", b"1"]


@pytest.mark.parametrize("meanwhile", [{"0.png": b"another"}, {"9.png": b"9"}])
def test_rows_that_were_changed_or_gone_are_back_with_their_labels_once_their_row_group_is(index, tmp_path, meanwhile):
    def write(images: dict[str, bytes], label: int) -> Path:
        columns = {"image": with_paths(images), "label": [label] * len(images)}
        return write_parquet(tmp_path / "t.parquet", columns)

    images = {"0.png": b"0", "1.png": b"1"}
    before, _ = index(write(images, 7))
    lost, changes = index(write(meanwhile, 7), append=True)
    assert changes and lost.problem(0)
    index(tmp_path / "t.parquet", append=True)
    back, changes = index(write(images, 8), append=True)
    assert keys(back)[:2] == keys(before) and [back.read(row) for row in (0, 1)] == [b"0", b"1"]
    assert back.labels(0, 2).tolist() == [7, 7] and changes.num_changed == 0
    assert [*index(write(images, 8))[0].read_many([1])] == [b"1"]


def test_rows_of_arrow_files_are_compared_by_size_and_place(index, tmp_path):
    save_arrow(tmp_path / "saved", {"image": with_paths({"a.png": b"1", "b.png": b"2"})})
    index(tmp_path / "saved")
    save_arrow(tmp_path / "saved", {"image": with_paths({"a.png": b"1", "b.png": b"22", "c.png": b"3"})})
    after, changes = index(tmp_path / "saved", append=True)
    assert changes.changed == ["b.png (2 bytes, was 1)"] and changes.new == ["c.png"]
    assert [str(found) for found in after.read_many(range(3))][1].startswith("has changed or moved")
    assert after.read(0) == b"1" and after.read(2) == b"3"


def test_labels_of_a_list_stay_the_numbers_they_are(index, tmp_path):
    (tmp_path / "list.txt").write_text("b.png\t4\n")
    index(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("b.png\t4\na.png\t2\n")
    source, changes = index(tmp_path / "list.txt", append=True)
    assert keys(source) == ["b.png", "a.png"] and source.labels(0, 2).tolist() == [4, 2] and changes.num_new == 1


@pytest.mark.parametrize("append", [False, True])
def test_rows_keep_the_labels_and_captions_that_they_were_first_listed_with(index, tmp_path, append):
    table = tmp_path / "list.csv"
    table.write_text("image,label,text\na.png,1,one\nb.png,2,two\nc.png,,\n")
    index(table)
    table.write_text("image,label,text\na.png,1,one\nb.png,3,two\nc.png,4,three\n" + "d.png,5,four\n" * append)
    source, changes = index(table, append)
    assert source.labels(0, 4).tolist() == [1, 2, -1, 5][: len(source)] and changes.num_changed == 0
    assert [source.caption(row) for row in range(3)] == ["one", "two", ""]
    assert changes.num_described == 2
    assert changes.described == ["b.png (label 3, was 2)", "c.png (label 4, was none; caption added)"]


def test_a_row_whose_label_could_not_be_used_has_it_once_that_is_put_right(index, make_tar, png):
    index(make_tar("t.tar", {"a.png": png(), "a.cls": b"x"}))
    source, changes = index(make_tar("t.tar", {"a.png": png(), "a.cls": b"3"}))
    assert source.label(0) == 3 and changes == NO_CHANGES


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
    summary.write_text(summary.read_text().replace('"index_version": 3', '"index_version": 1'))
    with pytest.raises(SourceError, match="index-0 was made by another version of tcae"):
        index(folder)


def test_those_found_are_counted_as_they_are_found(make_folder, tmp_path):
    counts: list[int] = []
    (tmp_path / "list.txt").write_text("".join(f"{number}.png\n" for number in range(250)))
    index_source(str(tmp_path / "list.txt"), tmp_path / "index", on_progress=counts.append)
    assert counts == [100, 200, 250]


@pytest.mark.parametrize(("first", "second"), [(("0", "1"), ("cat", "dog")), (("cat", "dog"), ("0", "1"))])
def test_labels_that_were_numbers_and_are_names_now_cannot_be_appended(index, tmp_path, first, second):
    table = tmp_path / "list.csv"
    table.write_text(f"image,label\na.png,{first[0]}\nb.png,{first[1]}\n")
    before, _ = index(table)
    table.write_text(f"image,label\na.png,{second[0]}\nb.png,{second[1]}\n")
    after, changes = index(table, append=True)
    assert not changes and after.class_names == before.class_names
    assert after.labels(0, 2).tolist() == [0, 1] and changes.num_described == 2
    table.write_text(f"image,label\na.png,{second[0]}\nb.png,{second[1]}\nc.png,{second[1]}\n")
    with pytest.raises(
        SourceError,
        match=r"list\.csv: labels were class n\w+ when it was first listed, and are n\w+ now; put them back, choose ",
    ):
        index(table, append=True)


class Older:
    """Indexes as an earlier version did, which read less of what lies beside images."""

    def __init__(self, monkeypatch) -> None:
        self._monkeypatch = monkeypatch

    def lists(self, listing: Listing) -> None:
        self._monkeypatch.setattr(index_update, "scan", lambda *_: listing)

    def is_over(self) -> None:
        self._monkeypatch.undo()


@pytest.fixture
def older(monkeypatch) -> Older:
    return Older(monkeypatch)


def entries(folder: Path, labels: dict[str, int]) -> list[Entry]:
    return [Entry(name, (folder / name).stat().st_size, label) for name, label in labels.items()]


@pytest.mark.parametrize("append", [False, True])
def test_a_store_begun_with_images_of_system_folders_keeps_them_as_rows(index, older, make_folder, png, append):
    folder = make_folder({"@eaDir/0.png": png(), "cat/1.png": png(seed=1), "dog/2.png": png(seed=2)})
    listed = entries(folder, {"@eaDir/0.png": 0, "cat/1.png": 1, "dog/2.png": 2})
    older.lists(Listing(str(folder), f"{folder}/", listed, ("@eaDir", "cat", "dog")))
    before, _ = index(folder)
    older.is_over()
    make_folder({"ant/3.png": png(seed=3)} if append else {})
    after, changes = index(folder, append)
    assert keys(after)[:3] == keys(before) and after.labels(0, 3).tolist() == [0, 1, 2]
    assert changes.num_vanished == changes.num_changed == 0 and after.read(0) == png()
    assert after.class_names == ("@eaDir", "cat", "dog", "ant")[: 3 + append]
    assert after.labels_from == {"class folders": 2 + append, "an earlier listing": 1}


def test_a_store_begun_with_class_folders_is_continued_with_them(index, older, make_folder, png):
    folder = make_folder({"b/0.png": png(), "b/0.cls": b"7", "c/1.png": png(seed=1), "c/1.cls": b"x"})
    older.lists(Listing(str(folder), f"{folder}/", entries(folder, {"b/0.png": 0, "c/1.png": 1}), ("b", "c")))
    before, _ = index(folder)
    older.is_over()
    after, changes = index(folder)
    assert changes == NO_CHANGES and after.fingerprint == before.fingerprint
    assert after.labels(0, 2).tolist() == [0, 1] and after.problem(1) == "" and after.class_names == ("b", "c")
    assert after.remarks == (
        f"{folder}: its folders were the classes when it was first listed, and stay the classes; --update-metadata "
        "takes the labels that are stated beside the images now",
    )
    make_folder({"a/2.png": png(), "a/2.cls": b"4"})
    after, changes = index(folder, append=True)
    assert changes.new == ["a/2.png"] and after.labels(0, 3).tolist() == [0, 1, 2]
    assert after.class_names == ("b", "c", "a")


def test_a_store_begun_without_labels_keeps_its_rows_as_they_are_and_says_so(index, older, make_folder, png):
    folder = make_folder({"0.png": png(), "0.json": b'{"label": 3, "caption": "one"}', "1.png": png(seed=1)})
    older.lists(Listing(str(folder), f"{folder}/", entries(folder, {"0.png": -1, "1.png": -1})))
    index(folder)
    older.is_over()
    make_folder({"2.png": png(), "2.cls": b"4", "1.json": b"{not JSON"})
    after, changes = index(folder, append=True)
    assert after.labels(0, 3).tolist() == [-1, -1, 4] and after.caption(0) == "" and after.problem(1) == ""
    assert changes.described == ["0.png (label 3, was none; caption added)"]


def test_a_tar_begun_without_its_folders_as_classes_is_continued_so(index, older, make_tar, png):
    tar = make_tar("s.tar", {"x/cat/0.png": png(), "x/dog/1.png": png(seed=1), "dataset.json": b'{"labels": []}'})
    whole = scan(str(tar))
    listed = sorted(
        [*(entry._replace(label=-1) for entry in whole.entries), *whole.set_aside], key=lambda entry: entry.offset
    )
    older.lists(replace(whole, entries=listed, class_names=(), set_aside=()))
    before, _ = index(tar)
    older.is_over()
    after, changes = index(tar)
    assert not changes and keys(after) == keys(before) and after.fingerprint == before.fingerprint
    assert changes.num_described == len(after) and after.labels(0, len(after)).tolist() == [-1] * len(after)
