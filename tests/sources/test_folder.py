"""A folder tree as a source."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tcae_cli.errors import ImageError, NotFoundError, SourceError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.sources.scan import open_source
from tcae_cli.sources.source import Source

from ..tables import table


def opened(folder: Path, **fields: str) -> Source:
    return open_source(str(folder), folder.parent / "index", SampleFields(**fields))


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that other users can look into, as tmp_path is not."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Acts as a user whom permissions concern; root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def keys(source: Source) -> list[str]:
    return source.keys(range(len(source)))


def test_a_glob_names_some_of_the_images_of_a_folder(make_folder, png, tmp_path):
    names = ("cat/1.png", "cat/2.jpg", "cat/old/3.png", "dog/1.PNG", "dog/4.png")
    folder = make_folder({name: png(seed=seed) for seed, name in enumerate(names)} | {"cat/1.txt": b"a cat"})
    source = open_source(f"{folder}/*/*.png", tmp_path / "index")
    assert source.keys(range(2)) == ["cat/1.png", "dog/4.png"] and source.class_names == ("cat", "dog")
    assert source.caption(0) == "a cat" and source.read(1) == png(seed=4)
    assert source.fingerprint == open_source(f"{folder}/[cd]*/*.png", tmp_path / "again").fingerprint
    assert len(open_source(f"{folder}/**/*.png", tmp_path / "index")) == 3
    assert open_source(f"{folder}/cat/*.{{png,jpg}}", tmp_path / "index").keys(range(2)) == ["1.png", "2.jpg"]
    with pytest.raises(
        SourceError, match=r"1\.\* matches 2 with \.png, 1 with \.txt, which are not of one kind of source"
    ):
        open_source(f"{folder}/*/1.*", tmp_path / "index")
    with pytest.raises(NotFoundError, match=r"\*\.gif does not exist; give"):
        open_source(f"{folder}/*.gif", tmp_path / "index")


def test_classes_are_the_first_folders_that_hold_images_by_name(make_folder, png):
    files = {"b/deep/er/1.png": png(), "a/1.png": png(), "notes/readme.md": b"", "top.png": png(), "B/1.png": png()}
    source = opened(make_folder(files))
    assert source.class_names == ("B", "a", "b")
    assert keys(source) == ["B/1.png", "a/1.png", "b/deep/er/1.png", "top.png"]
    assert source.labels(0, 4).tolist() == [0, 1, 2, -1]


def test_names_that_differ_only_in_their_suffix_are_two_rows(make_folder, png):
    source = opened(make_folder({"a.png": png(seed=1), "a.jpg": png(seed=2)}))
    assert keys(source) == ["a.jpg", "a.png"]
    assert source.read(0) == png(seed=2)


def test_suffixes_count_in_either_case_and_hidden_names_do_not(make_folder, png):
    files = {"A.JPEG": png(), ".hidden.png": png(), ".trash/a.png": png(), "a.npy": b""}
    assert keys(opened(make_folder(files))) == ["A.JPEG"]


def test_names_of_any_language_and_of_no_encoding(make_folder, png):
    names = ["a\nb.png", "لون.png", "猫 1.png", "🦁.png"]
    folder = make_folder({name: png(seed=seed) for seed, name in enumerate(names)})
    (folder / os.fsdecode(b"\xff.png")).write_bytes(png(seed=4))
    source = opened(folder)
    assert sorted(keys(source)) == sorted([*names, r"\xff.png"])
    for seed, name in enumerate([*names, r"\xff.png"]):
        assert source.read(keys(source).index(name)) == png(seed=seed)


def test_classes_are_named_in_utf_8_whatever_their_folders_are(make_folder, png):
    names = ("a", os.fsdecode(b"caf\xe9"), "猫")
    source = opened(make_folder({f"{name}/1.png": png() for name in names}))
    named = dict(zip(keys(source), source.labels(0, 3).tolist(), strict=True))
    assert [source.class_names[label] for label in named.values()] == [key.removesuffix("/1.png") for key in named]
    assert sorted(source.class_names) == ["a", r"caf\xe9", "猫"]


def test_linked_folders_are_followed_without_loops(make_folder, png, tmp_path):
    folder = make_folder({"a/1.png": png()})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/2.png").write_bytes(png())
    (folder / "b").symlink_to(tmp_path / "elsewhere")
    (folder / "a/loop").symlink_to(folder)
    assert keys(opened(folder)) == ["a/1.png", "b/2.png"]


def test_folders_linked_to_each_other_are_walked_once_from_each(make_folder, png):
    folder = make_folder({"a/1.png": png(), "b/2.png": png()})
    (folder / "a/to-b").symlink_to("../b")
    (folder / "b/to-a").symlink_to("../a")
    assert keys(opened(folder)) == ["a/1.png", "a/to-b/2.png", "b/2.png", "b/to-a/1.png"]


def test_a_link_that_leads_nowhere_is_a_row_not_a_gap(make_folder, png):
    folder = make_folder({"a.png": png()})
    (folder / "b.png").symlink_to("gone.png")
    (folder / "c.png").symlink_to("c.png")
    (folder / "d.png").symlink_to("e.png")
    (folder / "e.png").symlink_to("d.png")
    source = opened(folder)
    assert keys(source) == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    for row, reason in enumerate(["No such file", *["Too many levels of symbolic links"] * 3], start=1):
        with pytest.raises(ImageError, match=reason):
            source.read(row)


def test_a_file_that_may_not_be_read_fails_its_row(open_to_all, png):
    for name in ("a.png", "b.png"):
        (open_to_all / name).write_bytes(png())
    (open_to_all / "a.png").chmod(0)
    source = open_source(str(open_to_all), open_to_all / ".index")
    with as_nobody():
        with pytest.raises(ImageError, match="Permission denied"):
            source.read(0)
        assert source.read(1) == png()


def test_what_is_no_regular_file_is_not_opened(make_folder, png):
    folder = make_folder({"a.png": png()})
    os.mkfifo(folder / "b.png")
    assert keys(opened(folder)) == ["a.png"]


def test_a_folder_that_cannot_be_read_is_named(make_folder, png, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    folder = make_folder({"a/1.png": png()})
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match=r"photos cannot be read \(Permission denied\); check its permissions"):
        opened(folder)


def test_text_beside_an_image_is_its_caption(make_folder, png):
    source = opened(make_folder({"a.png": png(), "a.txt": " ein Löwe\n".encode(), "b.png": png(), "c.txt": b"\xff"}))
    assert source.has_captions
    assert [source.caption(0), source.caption(1)] == ["ein Löwe", ""]


def test_images_of_one_name_share_the_text_beside_them(make_folder, png):
    source = opened(make_folder({"a.jpg": png(), "a.png": png(), "a.txt": b"both"}))
    assert [source.caption(0), source.caption(1)] == ["both", "both"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"\xff", "a.txt is not UTF-8 text (invalid start byte); convert or remove it"),
        ("lion".encode("utf-16-le"), "a.txt is not UTF-8 text (it holds zero bytes); convert or remove it"),
        (None, "a.txt cannot be read (No such file or directory); make it readable or remove it"),
    ],
    ids=["no UTF-8", "UTF-16", "a link to nowhere"],
)
def test_a_text_that_cannot_be_used_costs_its_image_alone(make_folder, png, text, problem):
    folder = make_folder({"a.png": png(), "b.png": png(), "b.txt": b"fine"})
    if text is None:
        (folder / "a.txt").symlink_to("gone.txt")
    else:
        (folder / "a.txt").write_bytes(text)
    source = opened(folder)
    with pytest.raises(ImageError) as raised:
        source.read(0)
    assert raised.value.stage == "index" and str(raised.value) == f"{folder}/{problem}"
    assert source.read(1) == png() and source.caption(1) == "fine"


def test_metadata_files_give_captions_for_their_folder(make_folder, png):
    lines = b'{"file_name": "1.png", "text": "one"}\n\n{"file_name": "2.png", "caption": "two", "x": 1}\n'
    files = {f"a/{number}.png": png() for number in (1, 2, 3)}
    source = opened(make_folder({**files, "a/metadata.jsonl": lines, "a/2.txt": b"beside"}))
    assert [source.caption(row) for row in range(3)] == ["one", "beside", ""]


FORMS = pytest.mark.parametrize("form", ["csv", "jsonl"])


def metadata(form: str, columns: list[str], *rows: list) -> dict[str, bytes]:
    return {f"metadata.{form}": table(columns, rows, form).encode()}


@FORMS
def test_metadata_may_be_either_table(make_folder, png, form):
    text = metadata(form, ["file_name", "text"], ["./1.png", "one, two"], ["b/2.png", "three"])
    source = opened(make_folder({"1.png": png(), "b/2.png": png(), **text}))
    assert [source.caption(row) for row in range(2)] == ["one, two", "three"]
    assert source.passed_over == {} and source.remarks == ()


@FORMS
def test_without_class_folders_labels_are_those_of_metadata(make_folder, png, form):
    images = {f"{number}.png": png() for number in range(3)}
    rows = ["0.png", "dog"], ["1.png", "cat"]
    source = opened(make_folder({**images, **metadata(form, ["file_name", "class"], *rows)}))
    assert source.class_names == ("cat", "dog") and source.labels(0, 3).tolist() == [1, 0, -1]


def test_empty_cells_leave_what_another_metadata_file_has_said(make_folder, png):
    first = metadata("csv", ["file_name", "text", "label"], ["0.png", "zero", 4], ["1.png", "", 5])
    second = metadata("jsonl", ["file_name", "text", "label"], ["0.png", None, None], ["1.png", "one", None])
    source = opened(make_folder({"0.png": png(), "1.png": png(seed=1), **first, **second}))
    assert [source.caption(row) for row in range(2)] == ["zero", "one"] and source.labels(0, 2).tolist() == [4, 5]


def test_labels_in_metadata_may_be_numbers(make_folder, png):
    text = metadata("csv", ["file_name", "label"], ["0.png", "4.0"], ["1.png", ""], ["2.png", "-1.0"])  # as pandas
    source = opened(make_folder({"0.png": png(), "1.png": png(), "2.png": png(), **text}))
    assert source.class_names == () and source.labels(0, 3).tolist() == [4, -1, -1]
    assert source.labels_from == {"label in metadata.csv": 1}


def test_the_labels_of_metadata_come_before_class_folders_unless_these_are_chosen(make_folder, png):
    text = metadata("jsonl", ["file_name", "label"], ["a/0.png", 7], ["b/1.png", 4])
    folder = make_folder({"a/0.png": png(), "b/1.png": png(), **text})
    source = opened(folder)
    assert source.class_names == () and source.labels(0, 2).tolist() == [7, 4] and source.disagreements == ()
    source = opened(folder, label="folders")
    assert source.class_names == ("a", "b") and source.labels(0, 2).tolist() == [0, 1]


def test_captions_are_those_of_the_column_that_the_user_names(make_folder, png):
    text = metadata("csv", ["file_name", "text", "title"], ["0.png", "a lion asleep", "Lion"])
    folder = make_folder({"0.png": png(), "0.txt": b"beside", **text})
    assert opened(folder).caption(0) == "beside"
    assert opened(folder, caption="title").caption(0) == "Lion"


@FORMS
def test_metadata_that_names_no_image_is_said(make_folder, png, form):
    text = metadata(form, ["file_name", "text"], ["0.png", "zero"], ["1.png", "one"], ["", "none"])
    folder = make_folder({"a/0.png": png(), "0.png": png(), **text})
    source = opened(folder)
    line = 2 if form == "jsonl" else 3
    assert source.remarks == (
        f"{folder}/metadata.{form}: 2 of 3 lines name no image here, the first in line {line}; file_name is the path "
        "of an image, relative to the folder of this file",
    )
    assert source.caption(0) == "zero"


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({".hidden/a": b""}, "photos is empty; images are files ending in .avif, .bmp"),
        (
            {"a.npy": b"", "b.npy": b"", "c": b""},
            r"photos holds no images, only other files \(2 with .npy, 1 with no suffix\); images are files ending in",
        ),
        ({"a.png": b"", "metadata.jsonl": b"\n{oops"}, r"metadata.jsonl, line 2: not readable as JSON \("),
        ({"a.png": b"", "metadata.jsonl": b"[1]"}, "metadata.jsonl, line 1: should be a JSON object, found list"),
        ({"a.png": b"", "metadata.csv": b"file_name,text\na.png,b,c\n"}, r"metadata\.csv, line 2 has 3 cells, but the"),
    ],
)
def test_what_cannot_be_used_is_named(make_folder, files, sentence):
    with pytest.raises(SourceError, match=sentence):
        opened(make_folder(files))
