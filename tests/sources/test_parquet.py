"""Parquet files: which columns are taken, what the rows are, and what is read of the files."""

import errno
import io
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from tcae_cli.errors import ImageError, NotFoundError, SourceError, UsageError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.runtime.remote_folder import RemoteFolder
from tcae_cli.sources.parquet_file import OpenParquet
from tcae_cli.sources.scan import open_source, scan
from tcae_cli.sources.source import Source

from ..tables import with_paths, write_parquet

Opened = Callable[..., Source]
IMAGES = [b"one", b"two", b"three", b"four", b"five"]
CLASSES = {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    return lambda uri="t.parquet", **fields: open_source(
        str(tmp_path / uri), tmp_path / "index", SampleFields(**fields)
    )


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of columns, t.parquet unless it is named."""
    return lambda columns, name="t.parquet", **settings: write_parquet(tmp_path / name, columns, **settings)


def keys(source: Source) -> list[str]:
    return source.keys(range(len(source)))


def read(source: Source) -> list[bytes | str]:
    """The bytes of all rows, or the reason why they cannot be read."""
    found = source.read_many(range(len(source)))
    return [str(data) if isinstance(data, ImageError) else data for data in found]


def labels(source: Source) -> list[int]:
    return source.labels(0, len(source)).tolist()


def captions(source: Source) -> list[str]:
    return [source.caption(row) for row in range(len(source))]


def with_features(columns: dict, features: dict) -> dict:
    """The columns as a table with Hugging Face's features in its schema."""
    table = pa.table(columns)
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_a_file_of_the_datasets_library_has_its_classes_captions_and_paths(opened, png, tmp_path):
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["dog", "cat"]),
            "captions": datasets.List(datasets.Value("string")),
        }
    )
    rows = {
        "image": with_paths({"a.png": png(seed=0), "b.png": png(seed=1), "c.png": png(seed=2)}),
        "label": ["cat", "dog", None],
        "captions": [["a cat", "an animal"], [], ["a picture"]],
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "t.parquet")
    source = opened()
    assert keys(source) == ["a.png", "b.png", "c.png"] and read(source) == [png(seed=seed) for seed in range(3)]
    assert source.class_names == ("dog", "cat") and labels(source) == [1, 0, -1]
    assert captions(source) == ["a cat", "", "a picture"]


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ({"picture": [{"bytes": b"x", "path": "a"}], "image": [b"y"]}, "picture"),
        ({"img": [b"x"], "mask": [b"y"]}, "img"),
        ({"jpg": [b"x"], "image": ["a.png"]}, "jpg"),
        ({"id": [3], "photo": [{"bytes": b"x"}]}, "photo"),
        ({"photo": pa.array([b"x"], pa.large_binary()), "text": ["a"]}, "photo"),
    ],
)
def test_the_image_is_found_by_type_before_its_name(write, columns, chosen, tmp_path):
    write(columns)
    assert scan(str(tmp_path / "t.parquet")).image_column == chosen


def test_features_say_which_of_several_columns_is_the_image_and_the_label(write, opened):
    columns = {"mask": with_paths({"a": b"m"}), "photo": with_paths({"b": b"p"}), "class": [4], "species": [1]}
    features = {"photo": {"_type": "Image"}, "species": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    write(with_features(columns, features))
    source = opened()
    assert read(source) == [b"p"] and labels(source) == [1] and source.class_names == ("cat", "dog")


@pytest.mark.parametrize("metadata", [b"{", b"[]", b'{"info": {"features": [1]}}', b'{"info": {"features": {"x": 1}}}'])
def test_features_that_cannot_be_understood_are_no_features(write, opened, metadata):
    write(pa.table({"image": IMAGES, "label": [0, 1, 0, 1, 0]}).replace_schema_metadata({b"huggingface": metadata}))
    assert labels(opened()) == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("columns", "fields", "error", "sentence"),
    [
        (
            {"a": [b"x"], "b": [b"y"]},
            {},
            SourceError,
            "t.parquet has several columns that may hold the image: a, b; choose one with --image",
        ),
        (
            {"image": [b"x"], "label": [1], "class_id": [2]},
            {},
            SourceError,
            "t.parquet has several columns that may hold the label: label, class_id; choose one with --label",
        ),
        (
            {"image": [b"x"], "text": ["a"], "prompt": ["b"]},
            {},
            SourceError,
            "t.parquet has several columns that may hold the caption: text, prompt; choose one with --caption",
        ),
        (
            {"images": [[b"x"]], "id": [1]},
            {},
            SourceError,
            "t.parquet has no column that is known to hold images, only images, id; name one with --image",
        ),
        (
            {"image": [b"x"], "id": [1]},
            {"label": "class"},
            UsageError,
            "--label class: .*t.parquet has no such column, only id; name one of these",
        ),
        (
            {"image": [b"x"], "id": [1]},
            {"image": "id"},
            UsageError,
            "--image id: .*t.parquet has int64 there, and no images; name another column",
        ),
        (
            {"image": [b"x"], "box": [[1]]},
            {"label": "box"},
            UsageError,
            r"--label box: .*t.parquet has list<.*> there, and no labels; name another column",
        ),
        (
            {"image": [b"x"], "id": [1]},
            {"caption": "id"},
            UsageError,
            "--caption id: .*t.parquet has int64 there, and no captions; name another column",
        ),
        (
            {"image": [b"x"]},
            {"split": "train"},
            UsageError,
            "--split: .* is Parquet files .* has nothing to choose by it; omit it",
        ),
    ],
)
def test_columns_that_cannot_be_found_are_a_sentence(write, opened, columns, fields, error, sentence):
    write(columns)
    with pytest.raises(error, match=f"{sentence}$"):
        opened(**fields)


def test_columns_of_one_name_are_refused(write, opened):
    write(pa.table([pa.array([b"x"]), pa.array([1]), pa.array([2])], ["image", "label", "label"]))
    with pytest.raises(SourceError, match=r"t\.parquet has 2 columns named label; rename them, or drop all but one$"):
        opened()


def test_the_user_chooses_columns(write, opened):
    columns = {"a": [b"x", b"y"], "b": [b"X", b"Y"], "label": [1, 2], "kind": ["p", "q"], "text": ["t"] * 2}
    write({**columns, "alt": ["u", "v"]})
    source = opened(image="b", label="kind", caption="alt")
    assert read(source) == [b"X", b"Y"] and labels(source) == [0, 1] and captions(source) == ["u", "v"]


@pytest.mark.parametrize(
    ("cells", "numbers", "names"),
    [
        ([3, -1, None, -7, 0], [3, -1, -1, -1, 0], ()),
        (pa.array([3, 1, 0, 1, 2], pa.uint8()), [3, 1, 0, 1, 2], ()),
        (["dog", "cat", None, "", "dog"], [1, 0, -1, -1, 1], ("cat", "dog")),
        (pa.array(["dog", "cat", None, "ant", "dog"]).dictionary_encode(), [2, 1, -1, 0, 2], ("ant", "cat", "dog")),
        (["2", "1", None, "-1", "2"], [2, 1, -1, -1, 2], ()),
        ([2.0, 1.0, None, float("nan"), 0.0], [2, 1, -1, -1, 0], ()),
    ],
)
def test_labels_are_numbers_from_zero_or_names(write, opened, cells, numbers, names):
    write({"image": IMAGES, "label": cells})
    assert labels(opened()) == numbers and opened().class_names == names


def test_files_may_differ_in_how_they_hold_the_bytes(write, opened):
    write({"image": [b"1"]}, "0.parquet")
    write({"image": with_paths({"a.png": b"2"})}, "1.parquet")
    write({"image": [{"bytes": b"3"}]}, "2.parquet")
    assert read(opened("*.parquet")) == [b"1", b"2", b"3"] and keys(opened("*.parquet"))[1] == "a.png"


def test_a_file_without_rows_changes_nothing(write, opened):
    write({"image": [b"1"], "label": ["cat"]}, "0.parquet")
    write({"image": pa.array([], pa.binary()), "label": pa.array([], pa.string())}, "1.parquet")
    write({"image": [b"2"], "label": ["ant"]}, "2.parquet")
    assert read(opened("*.parquet")) == [b"1", b"2"] and labels(opened("*.parquet")) == [1, 0]


def test_names_of_classes_are_numbered_over_all_files(write, opened):
    write({"image": [b"1", b"2"], "label": ["m", "z"]}, "0.parquet")
    write({"image": [b"3", b"4"], "label": ["a", "m"]}, "1.parquet")
    assert labels(opened("*.parquet")) == [1, 2, 0, 1] and opened("*.parquet").class_names == ("a", "m", "z")


def test_a_label_beyond_the_names_of_classes_is_refused(write, opened):
    write(with_features({"image": [b"x"], "label": [2]}, CLASSES))
    with pytest.raises(
        SourceError, match=r"t\.parquet has the label 2, and its schema names only 2 classes; correct it, or choose"
    ):
        opened()


@pytest.mark.parametrize(
    ("cells", "texts"),
    [
        ([" a lion ", None, "", "b", "c"], ["a lion", "", "", "b", "c"]),
        ([["one", "two"], [], None, [None], ["three"]], ["one", "", "", "", "three"]),
        (pa.array(["a", "b", None, "a", "a"]).dictionary_encode(), ["a", "b", "", "a", "a"]),
    ],
)
def test_captions_are_texts_or_the_first_of_several(write, opened, cells, texts):
    write({"image": IMAGES, "caption": cells})
    assert captions(opened()) == texts


def test_captions_after_the_first_are_counted(write, opened):
    write({"image": IMAGES[:3], "caption": [["one"], ["two", "too"], []]}, "0.parquet")
    write({"image": IMAGES[:2], "caption": [["three", "tree"], ["four"]]}, "1.parquet")
    (remark,) = opened("*.parquet").remarks
    words = (
        "2 images have several captions in column caption, of which the first is used; the first: 0.parquet/00000001"
    )
    assert remark.endswith(f"*.parquet: {words}")


def test_a_key_is_the_image_s_path_where_that_says_which_one(write, opened):
    paths = ["a/1.png", "b.png", "b.png", None, "c.png"]
    write({"image": [{"bytes": data, "path": path} for data, path in zip(IMAGES, paths, strict=True)]}, "0.parquet")
    write({"image": with_paths({"a/1.png": b"6", "d.png": b"7"})}, "sub/1.parquet")
    assert keys(opened("**/*.parquet")) == [
        *("a/1.png", "0.parquet/00000001", "0.parquet/00000002", "0.parquet/00000003", "c.png"),
        *("sub/1.parquet/00000000", "d.png"),
    ]
    assert read(opened("**/*.parquet")) == [*IMAGES, b"6", b"7"]


def test_rows_come_by_file_name_and_row_from_a_folder_a_glob_and_braces(write, opened, tmp_path):
    for number, name in enumerate(("b.parquet", "a.parquet", "deep/c.parquet")):
        write({"image": [b"%d" % number, b"x"]}, f"data/{name}")
    (tmp_path / "data/README.md").write_text("about")
    assert keys(opened("data")) == [f"{name}.parquet/0000000{row}" for name in ("a", "b", "deep/c") for row in (0, 1)]
    assert opened("data").passed_over == {".md": 1}
    assert read(opened("data"))[::2] == [b"1", b"0", b"2"]
    assert keys(opened("data/?.parquet")) == keys(opened("data"))[:4]
    assert keys(opened("data/{b,a}.parquet"))[0] == "b.parquet/00000000"
    assert keys(opened("data/a.parquet")) == keys(opened("data"))[:2]


def test_a_folder_with_images_is_one_of_images(write, opened, tmp_path, png):
    write({"image": [b"x"]}, "data/a.parquet")
    (tmp_path / "data/b.png").write_bytes(png())
    assert keys(opened("data")) == ["b.png"]


def test_columns_of_a_folder_of_parquet_files_are_chosen(write, opened):
    write({"image": [b"x", b"y"], "mask": [b"X", b"Y"], "number": [5, 6]}, "data/a.parquet")
    assert read(opened("data", image="mask")) == [b"X", b"Y"] and labels(opened("data", label="number")) == [5, 6]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"img": [b"x"], "label": [0], "text": ["a"]}, "image column"),
        ({"image": ["x"], "label": [0], "text": ["a"]}, "type of image column"),
        ({"image": [b"x"], "label_id": [0], "text": ["a"]}, "label column"),
        ({"image": [b"x"], "label": ["x"], "text": ["a"]}, "type of label column"),
        (with_features({"image": [b"x"], "label": [0], "text": ["a"]}, CLASSES), "class names"),
        ({"image": [b"x"], "label": [0]}, "caption column"),
    ],
)
def test_files_that_do_not_go_together_are_named(write, opened, other, words):
    write({"image": [b"x"], "label": [0], "text": ["a"]}, "a.parquet")
    write(other, "b.parquet")
    with pytest.raises(
        SourceError,
        match=rf"\*.parquet: b.parquet and a.parquet differ in their {words}; encode them separately, or choose",
    ):
        opened("*.parquet")


def test_files_with_and_without_paths_beside_the_bytes_go_together(write, opened):
    write({"image": with_paths({"x.png": b"1"})}, "a.parquet")
    write({"image": [b"2"]}, "b.parquet")
    assert keys(opened("*.parquet")) == ["x.png", "b.parquet/00000000"] and read(opened("*.parquet")) == [b"1", b"2"]


def test_images_may_be_files_beside_the_table(write, opened, tmp_path, png):
    for number, name in enumerate(("data/images/a.png", "data/b.png", "c.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(seed=number))
    write({"file_name": ["images/a.png", None, "./b.png", "gone.png"], "label": [4, 3, 2, 1]}, "data/t.parquet")
    source = opened("data/t.parquet")
    assert keys(source) == ["images/a.png", "t.parquet/00000001", "b.png", "gone.png"]
    assert read(source) == [png(seed=0), "the row has no image", png(seed=1), "No such file or directory"]
    assert [source.size_bytes(row) for row in (0, 1, 3)] == [len(png(seed=0)), 0, 0]
    assert labels(source) == [4, 3, 2, 1] and source.access == "row"

    write({"file_name": ["images/a.png", "../c.png"]}, "data/t.parquet")
    assert keys(opened("data/t.parquet")) == ["data/images/a.png", "c.png"]
    assert opened("data/t.parquet").read(1) == png(seed=2)


def test_an_image_without_bytes_is_the_file_at_its_path(write, opened, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.png").write_bytes(b"beside")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [(b"in it", "b.png"), (None, "a.png"), (None, "gone.png"), (None, "../x.png"), (None, None), None]
    write({"image": pa.array(cells, kind)}, "data/t.parquet")
    out = "the row has no bytes but a path, ../x.png, that leads out of the source"
    nothing = ["the row has no image"] * 2
    assert read(opened("data/t.parquet")) == [b"in it", b"beside", "No such file or directory", out, *nothing]


def test_indexing_reads_no_images(write, opened, monkeypatch, tmp_path):
    images = [np.random.default_rng(row).bytes(200_000) for row in range(40)]
    path = write({"image": with_paths({f"{row}.png": data for row, data in enumerate(images)}), "label": range(40)})
    num_bytes = 0

    class Counted(io.FileIO):
        def readinto(self, buffer) -> int:
            nonlocal num_bytes
            found = super().readinto(buffer)
            num_bytes += found
            return found

    monkeypatch.setattr(
        LocalFolder,
        "open",
        lambda folder, name, ahead: io.BufferedReader(Counted(os.path.join(folder.uri, name)), ahead),
    )
    source = scan(str(path))
    assert len(source.entries) == 40 and 0 < num_bytes < path.stat().st_size / 2


@pytest.fixture
def groups(monkeypatch) -> list[int]:
    """The row groups whose images are read, in order."""
    numbers: list[int] = []
    read_images = OpenParquet.read_images
    monkeypatch.setattr(
        OpenParquet,
        "read_images",
        lambda file, number, column: numbers.append(number) or read_images(file, number, column),
    )
    return numbers


def test_a_row_group_is_read_once_for_all_its_rows_and_one_is_kept(write, opened, groups):
    images = [np.random.default_rng(row).bytes(1 << 20) for row in range(16)]
    write({"image": images}, rows_per_group=4)
    source = opened()
    groups.clear()
    before = pa.total_allocated_bytes()
    for row, data in enumerate(source.read_many(range(16))):
        assert data == images[row] and pa.total_allocated_bytes() - before < 6 << 20
    assert groups == [0, 1, 2, 3]
    assert list(source.read_many([15, 0, 14, 1])) == [images[row] for row in (15, 0, 14, 1)]
    assert groups == [0, 1, 2, 3, 0, 3]
    assert [[*rows] for rows in source.groups()][:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_threads_that_ask_for_rows_of_several_groups_get_their_own(write, opened, monkeypatch):
    images = [b"%d" % row for row in range(20)]
    write({"image": images})
    source = opened()
    read_group = OpenParquet.read_group
    reading: list[int] = []

    def alone(file: OpenParquet, number: int, columns: list[str]) -> pa.Table:
        reading.append(number)
        time.sleep(0.001)
        assert reading == [number]
        reading.clear()
        return read_group(file, number, columns)

    monkeypatch.setattr(OpenParquet, "read_group", alone)
    rows = np.random.default_rng(0).integers(len(images), size=200).tolist()
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(source.read, rows)) == [images[row] for row in rows]


def damage(path: Path, column: int, group: int = 1) -> None:
    """Overwrite a column of a row group."""
    chunk = pq.read_metadata(path).row_group(group).column(column)
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)


def test_a_damaged_row_group_fails_its_rows_and_is_tried_once(write, opened, groups):
    path = write({"image": IMAGES, "label": [0, 1, 2, 3, 4]})
    damage(path, column=0)
    source = opened()
    found = read(source)
    assert [found[row] for row in (0, 1, 4)] == [b"one", b"two", b"five"] and groups == [0, 1, 2]
    assert found[2] == found[3] and found[2].startswith("row group 1 of t.parquet is damaged (")
    with pytest.raises(ImageError) as raised:
        source.read(3)
    assert raised.value.stage == "read"


@pytest.mark.parametrize(
    ("num_failures", "found"), [(1, [b"one", b"two", b"three"]), (2, ["[Errno 5] cut"] * 2 + [b"three"])]
)
def test_a_row_group_is_read_once_more_after_a_read_that_fails(write, opened, monkeypatch, num_failures, found):
    write({"image": IMAGES[:3]})
    source = opened()
    read_images = OpenParquet.read_images
    failures = iter([OSError(errno.EIO, "cut")] * num_failures)

    def read_or_fail(file: OpenParquet, number: int, column: str) -> pa.ChunkedArray:
        for failure in failures:
            raise failure
        return read_images(file, number, column)

    monkeypatch.setattr(OpenParquet, "read_images", read_or_fail)
    assert read(source) == found


def test_rows_whose_labels_are_damaged_are_rows_with_a_problem(write, opened, problems):
    damage(write({"image": IMAGES, "label": [0, 1, 2, 3, 4]}), column=1)
    source = opened()
    assert labels(source) == [0, 1, -1, -1, 4] and source.read(4) == b"five"
    found = problems(source)
    assert list(found) == ["t.parquet/00000002", "t.parquet/00000003"]
    assert all(
        problem.startswith("row group 1 of t.parquet is damaged (") and problem.endswith("; copy the file again")
        for problem in found.values()
    )


@pytest.mark.parametrize("make", [lambda data: data[:-100], lambda data: b"", lambda data: b"hello" * 10])
def test_a_file_without_its_footer_is_named(write, opened, make):
    path = write({"image": IMAGES})
    source = opened()
    path.write_bytes(make(path.read_bytes()))
    sentence = r"t\.parquet is not a Parquet file, or has lost its footer \(.*\); copy it again$"
    for look in (opened, lambda: source.read(0)):
        with pytest.raises(SourceError, match=sentence):
            look()


@pytest.mark.parametrize("columns", [{"image": IMAGES[:4]}, {"image": [b"other" * 9, *IMAGES[1:]]}, {"img": IMAGES}])
def test_a_file_that_changed_since_it_was_indexed_is_not_read(write, opened, columns):
    write({"image": IMAGES})
    source = opened()
    write(columns)
    with pytest.raises(SourceError, match=r"t\.parquet has changed since it was indexed; put it back, or repeat"):
        source.read(0)


def test_a_file_that_may_not_be_opened_is_named(write, opened, monkeypatch):
    write({"image": IMAGES})
    source = opened()

    def refuse(folder: LocalFolder, name: str, ahead: int | None = None) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", os.path.join(folder.uri, name))

    monkeypatch.setattr(LocalFolder, "open", refuse)
    with pytest.raises(
        SourceError, match=r"t\.parquet cannot be read \(Permission denied\); put that right, and repeat"
    ):
        source.read(0)
    with pytest.raises(SourceError, match=r"t\.parquet cannot be read \(Permission denied\); check its permissions"):
        opened()


def test_a_table_without_rows_is_refused(write, opened):
    write({"image": pa.array([], pa.binary())})
    with pytest.raises(SourceError, match=r"t\.parquet has no rows; give a table that holds images"):
        opened()


def test_text_that_is_not_utf_8_is_named(write, opened):
    write({"image": [b"x"], "caption": pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())})
    with pytest.raises(SourceError, match=r"t\.parquet holds text that is not UTF-8 \(invalid start byte\); write it"):
        opened()


def test_rows_are_counted_file_by_file(write, tmp_path):
    for number in range(3):
        write({"image": IMAGES}, f"{number}.parquet")
    counts: list[int] = []
    scan(str(tmp_path / "*.parquet"), on_progress=counts.append)
    assert counts == [5, 10, 15]


def test_missing_files_of_a_pattern_are_passed_over_as_far_as_that_is_allowed(opened, png, tmp_path):
    write_parquet(tmp_path / "part-2.parquet", {"image": [png()]})
    source = opened("part-{1..2}.parquet", allow_missing=1)
    assert source.read(0) == png() and "lacks 1 of its 2 files, which --allow-missing permits" in source.remarks[0]


@pytest.mark.parametrize("name", ["gone.parquet", "gone-*.parquet"])
def test_files_that_do_not_exist_are_named(opened, name):
    with pytest.raises(NotFoundError, match=r"gone.*\.parquet (does not exist|matches no file); "):
        opened(name)


def test_a_pattern_that_is_none_is_explained_by_one_of_the_same_kind(opened):
    with pytest.raises(UsageError, match=r"is not a pattern \(.*\); write it as shards/\{000\.\.127\}\.parquet"):
        opened("t-{0..2.parquet")


@pytest.fixture
def url(object_store: str, bucket: str) -> str:
    return f"{object_store}/{bucket.removeprefix('s3://')}"


def test_remote_files_are_indexed_by_range_and_read_by_group(put, bucket, url, write, tmp_path, png):
    for number in range(2):
        images = {f"{number}-{row}.png": png(seed=10 * number + row) for row in range(3)}
        put({f"data/{number}.parquet": write({"image": with_paths(images), "label": [3, 4, 5]}).read_bytes()})
    names = [f"{number}-{row}.png" for number in range(2) for row in range(3)]
    for uri in (f"{bucket}/data/*.parquet", f"{bucket}/data", f"{url}/data/{{0,1}}.parquet?x-signature=secret"):
        source = open_source(uri, tmp_path / "index")
        assert keys(source) == names and labels(source) == [3, 4, 5, 3, 4, 5] and source.is_remote
        assert read(source) == [png(seed=seed) for seed in (0, 1, 2, 10, 11, 12)]


def test_the_secret_of_a_signed_url_is_in_no_key_and_no_message(put, url, write, tmp_path):
    path = write({"image": IMAGES})
    put({"t.parquet": path.read_bytes()})
    source = open_source(f"{url}/t.parquet?x-signature=secret", tmp_path / "index")
    assert keys(source)[0] == "t.parquet/00000000" and read(source) == IMAGES
    damage(path, column=0)
    put({"t.parquet": path.read_bytes()})
    damaged = open_source(f"{url}/t.parquet?x-signature=secret", tmp_path / "index")
    assert read(damaged)[2].startswith("row group 1 of t.parquet is damaged (")
    put({"t.parquet": b"no more"})
    with pytest.raises(SourceError, match=rf"^{url}/t\.parquet is not a Parquet file") as raised:
        Source(tmp_path / "index").read(0)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("request_for", ["info", "cat_file"])
def test_a_remote_file_is_asked_for_again_once_as_it_is_opened(put, url, write, tmp_path, monkeypatch, request_for):
    put({"t.parquet": write({"image": IMAGES}).read_bytes()})
    source = open_source(f"{url}/t.parquet", tmp_path / "index")
    files = RemoteFolder._files.fget
    troubles: list[str] = []

    class Shaky:
        def __init__(self, folder: RemoteFolder) -> None:
            self._files = files(folder)

        def __getattr__(self, name: str):
            if name == request_for and troubles:
                raise OSError(troubles.pop())
            return getattr(self._files, name)

    monkeypatch.setattr(RemoteFolder, "_files", property(Shaky))
    troubles += ["the connection was reset"]
    assert source.read(0) == IMAGES[0] and not troubles
    troubles += ["the connection was reset"] * 2
    with pytest.raises(
        SourceError, match=r"t\.parquet cannot be read \(the connection was reset\); put that right, and"
    ):
        Source(tmp_path / "index").read(0)


def test_remote_files_that_went_away_are_named(put, bucket, write, tmp_path):
    put({"t.parquet": write({"image": IMAGES}).read_bytes()})
    source = open_source(f"{bucket}/t.parquet", tmp_path / "index")
    s3fs.S3FileSystem().rm_file(f"{bucket}/t.parquet")
    with pytest.raises(
        SourceError, match=rf"^{bucket}/t\.parquet no longer exists; put it back, and repeat the command"
    ):
        source.read(0)
    with pytest.raises(NotFoundError, match=rf"^{bucket}/t\.parquet does not exist"):
        open_source(f"{bucket}/t.parquet", tmp_path / "index")
