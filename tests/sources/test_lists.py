"""An image list as a source."""

import pytest

from tcae_cli.errors import ImageError, SourceError, TcaeError, UsageError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.sources.scan import open_source

from ..tables import table


@pytest.fixture
def opened(tmp_path):
    """Opens a list of the given text, lying beside the folder "photos"."""

    def open_list(text, folder=tmp_path, suffix="txt", **fields):
        folder.mkdir(exist_ok=True)
        path = folder / f"list.{suffix}"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return open_source(str(path), tmp_path / "index", SampleFields(**fields))

    return open_list


def test_lines_are_paths_relative_to_the_list_with_perhaps_a_label(opened, make_folder, png):
    make_folder({"b.png": png(seed=1), "a b.jpg": png(seed=2), "c.png": png(seed=3)})
    source = opened("photos/c.png\r\n\nphotos/b.png\t4\n./photos/a b.jpg\t0\nphotos/d.png\t-1\n")
    assert source.keys(range(4)) == ["photos/a b.jpg", "photos/b.png", "photos/c.png", "photos/d.png"]
    assert source.labels(0, 4).tolist() == [0, 4, -1, -1]
    assert source.read(0) == png(seed=2)
    assert source.class_names == ()


def test_images_elsewhere_have_keys_relative_to_where_they_all_are(opened, make_folder, png, tmp_path):
    folder = make_folder({"x/1.png": png(seed=1), "y/2.png": png(seed=2)})
    source = opened(f"{folder}/x/1.png\n../photos/y/2.png\n", folder=tmp_path / "lists")
    assert source.keys(range(2)) == ["x/1.png", "y/2.png"]
    assert source.read(1) == png(seed=2)


def test_a_listed_file_that_is_not_there_is_a_row_that_fails(opened, make_folder, png):
    make_folder({"a.png": png()})
    source = opened("photos/a.png\nphotos/b.png\n")
    assert len(source) == 2
    with pytest.raises(ImageError, match="No such file"):
        source.read(1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\n \n", r"list\.txt lists no images; write one path a line"),
        ("a.png\ncat\tdog\n", r"list\.txt, line 2: the label should be a whole number from 0, found 'dog'"),
        ("a.png\n./a.png\n", r"list\.txt, line 2: \./a\.png was listed before; list each image once"),
        ("a.png\ns3://bucket/b.png\n", r"list\.txt lists local paths and s3:// names; make a list of each"),
        ("https://x/a.png\ns3://b/b.png\n", r"list\.txt lists https:// names and s3:// names; make a list of each"),
        (b"\xff", r"list\.txt is not UTF-8 text"),
        (b"\xff\xfea", r"list\.txt begins as UTF-16 text and is none \(truncated data\); convert or remove it"),
    ],
)
def test_what_cannot_be_used_is_named(opened, text, sentence):
    with pytest.raises(SourceError, match=sentence):
        opened(text)


def test_lines_that_are_tars_stand_for_their_images(opened, make_tar, png, tmp_path):
    (tmp_path / "b").mkdir()
    make_tar("b/late-77.tar", {"1.png": png(seed=1), "1.cls": b"4"})
    make_tar("early.tar.gz", {"1.png": png(seed=2)})
    source = opened(f"\ufeffb/late-77.tar\r\n\n{tmp_path}/early.tar.gz\n".encode())
    assert source.keys(range(2)) == ["b/late-77.tar/1.png", "early.tar.gz/1.png"]
    assert source.labels(0, 2).tolist() == [4, -1] and list(source.read_many([1])) == [png(seed=2)]
    source = opened("b/late-77.tar\ngone.tar\n", image="png", allow_missing=1)
    assert source.remarks == (f"{source.uri} lacks 1 of its 2 files, which --allow-missing permits: gone.tar",)


@pytest.mark.parametrize(
    ("text", "fields", "sentence"),
    [
        ("0.tar\na.png\n", {}, r"list\.txt, line 2: a\.png is not a tar, as others are; make a list of each"),
        ("0.tar\t3\n", {}, r"line 1: a tar has no label, because its images have theirs; remove 3"),
        ("0.tar\n0.tar\n", {}, r"line 2: 0\.tar was listed before"),
        (
            "0.tar\ngone.tar\n",
            {},
            r"list\.txt lacks 1 of its 2 files: gone\.tar; correct it, or pass --allow-missing 1",
        ),
        ("gone.tar\n", {}, r"gone\.tar does not exist; correct .*list\.txt$"),
        ("0.tar\n", {"split": "train"}, r"--split: .*list\.txt is an image list"),
        ("a.png\n", {"allow_missing": 1}, r"--allow-missing: .* lists images, and a missing one is a failed row; omit"),
    ],
)
def test_lists_of_tars_that_cannot_be_used_are_named(opened, make_tar, png, text, fields, sentence):
    make_tar("0.tar", {"1.png": png()})
    with pytest.raises(TcaeError, match=sentence):
        opened(text, **fields)


EVERY_SUFFIX = pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])


def captions(source):
    return [source.caption(row) for row in range(len(source))]


@EVERY_SUFFIX
def test_columns_are_found_by_their_usual_names(opened, make_folder, png, suffix):
    make_folder({"b.png": png(seed=1), "a.png": png(seed=2)})
    rows = [["7", "photos/b.png", "dog", 'says "hi",\nthen\tleaves'], ["8", "./photos/a.png", "cat", "a cat"]]
    source = opened(table(["id", "File_Name", "class", "text"], rows, suffix), suffix=suffix)
    assert source.keys(range(2)) == ["photos/a.png", "photos/b.png"]
    assert source.read(0) == png(seed=2)
    assert source.class_names == ("cat", "dog") and source.labels(0, 2).tolist() == [0, 1]
    assert captions(source) == ["a cat", 'says "hi",\nthen\tleaves']


@EVERY_SUFFIX
def test_columns_are_those_that_the_user_names(opened, suffix):
    rows = [["a.png", "b.png", "short", "long", 1, 5]]
    text = table(["image", "file", "caption", "prompt", "label", "class"], rows, suffix)
    source = opened(text, suffix=suffix, image="file", caption="prompt", label="class")
    assert (source.key(0), source.caption(0), source.label(0)) == ("b.png", "long", 5)


@EVERY_SUFFIX
def test_several_candidates_are_a_question(opened, suffix):
    text = table(["image", "caption", "text"], [["a.png", "short", "long"]], suffix)
    with pytest.raises(SourceError, match=r"several columns that may hold the caption: caption, text; choose one with"):
        opened(text, suffix=suffix)


@EVERY_SUFFIX
def test_without_a_column_of_images_those_there_are_listed(opened, suffix):
    text = table(["name", "label"], [["a.png", 1]], suffix)
    with pytest.raises(SourceError, match=r"no column that is known to hold images, only name, label; name one with"):
        opened(text, suffix=suffix)
    assert opened(text, suffix=suffix, image="name").key(0) == "a.png"


@EVERY_SUFFIX
def test_a_line_without_an_image_is_a_row_that_fails(opened, make_folder, png, suffix):
    make_folder({"a.png": png()})
    text = table(["image", "label"], [["", 0], ["photos/a.png", ""]], suffix)
    source = opened(text, suffix=suffix)
    line = 1 if suffix == "jsonl" else 2
    assert source.keys(range(2)) == [f"list.{suffix}:{line}", "photos/a.png"]
    assert source.labels(0, 2).tolist() == [0, -1]
    with pytest.raises(ImageError, match="the line has no image") as raised:
        source.read(0)
    assert raised.value.stage == "index"
    assert source.read(1) == png()


def test_spreadsheets_write_a_byte_order_mark_and_carriage_returns(opened):
    source = opened("\ufeffimage,caption\r\na.png,one\r\n\r\nb.png\r\n".encode(), suffix="csv")
    assert source.keys(range(2)) == ["a.png", "b.png"]
    assert captions(source) == ["one", ""]
    source = opened('\ufeff{"image": "a.png", "caption": "one"}\r\n'.encode(), suffix="jsonl")
    assert captions(source) == ["one"]
    assert opened("\ufeffa.png\t3\r\n".encode()).key(0) == "a.png"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("txt", "b/löwe.png\t3\r\n"),
        ("csv", "path,label,caption\r\nb/löwe.png,3,Löwe\r\n"),
        ("tsv", "path\tlabel\tcaption\r\nb/löwe.png\t3\tLöwe\r\n"),
        ("jsonl", '{"path": "b/löwe.png", "label": 3, "caption": "Löwe"}\r\n'),
    ],
)
def test_utf_16_is_known_by_its_byte_order_mark(opened, suffix, text, encoding):
    source = opened((text if encoding == "utf-16" else f"\ufeff{text}").encode(encoding), suffix=suffix)
    assert source.key(0) == "b/löwe.png" and source.labels(0, 1).tolist() == [3]
    assert captions(source) == ["" if suffix == "txt" else "Löwe"]


def test_objects_may_lack_keys_and_hold_null_and_several_captions(opened):
    lines = [
        '{"image": "a.png", "captions": ["one", "two"], "label": null}',
        '{"image": "b.png", "label": 3}',
        "",
        '{"captions": null}',
        '{"image": "\\ud83d.png"}',
        '{"image": "a\\u0000.png"}',
        '{"image": 5}',
    ]
    source = opened("\n".join(lines), suffix="jsonl")
    failed = ["list.jsonl:4", "list.jsonl:5", "list.jsonl:6", "list.jsonl:7"]
    assert source.keys(range(6)) == ["a.png", "b.png", *failed]
    assert source.labels(0, 6).tolist() == [-1, 3, -1, -1, -1, -1]
    assert captions(source)[:2] == ["one", ""]
    (remark,) = source.remarks
    assert remark.endswith(
        "list.jsonl: 1 images have several captions in a line, of which the first is used; the first: line 1"
    )


def test_lines_are_counted_as_an_editor_counts_them(opened):
    text = 'image,caption\n\na.png,"one\ntwo"\n,"three\nfour"\n'
    assert opened(text, suffix="csv").key(1) == "list.csv:5"


def test_a_list_without_columns_has_none_to_choose(opened):
    with pytest.raises(
        UsageError, match=r"--caption: .*list\.txt has no columns, only paths and class numbers; omit it"
    ):
        opened("a.png\n", caption="text")


@pytest.mark.parametrize(
    ("suffix", "text", "sentence"),
    [
        ("csv", "a.png,1\nb.png,2\n", r"list\.csv, line 1 should name the columns, but it has a\.png; begin the file"),
        ("tsv", "a.png\t1\n", r"list\.tsv, line 1 should name .* with a line such as image\tlabel\tcaption$"),
        ("csv", "image,label,image\n", r"list\.csv, line 1: two columns are called image; rename one"),
        ("csv", "image\na.png,b\n", r"list\.csv, line 2 has 2 cells, but the header has 1; put cells that hold a "),
        (
            "csv",
            'image,text\na.png,"x\ny"\nb.png,"one\nc.png,two\n',
            r"list\.csv, line 4: not readable as CSV \(unexpected end of data\); correct its double quotes",
        ),
        ("csv", b"image\na.png\n\xff.png\n", r"list\.csv, line 3 is not UTF-8 text \(invalid start byte\); convert"),
        ("csv", "image\na.png\n./a.png\n", r"list\.csv, line 3: \./a\.png was listed before; list each image once"),
        ("csv", "", r"list\.csv lists no images; write one path a line"),
        ("csv", "image\n", r"list\.csv lists no images; write one path a line"),
        ("jsonl", "\n", r"list\.jsonl lists no images; write one path a line"),
        ("jsonl", '{"image": "a.png"}\n{oops\n', r"list\.jsonl, line 2: not readable as JSON \("),
        ("jsonl", "[1]\n", r"list\.jsonl, line 1: should be a JSON object, found list; correct or remove it"),
        ("jsonl", b'{"image": "\xff"}', r"list\.jsonl, line 1: not readable as JSON \(.utf-8. codec"),
        ("jsonl", '\n{"image": "a", "label": [1]}', r"line 2: the label should be a number or a name, found list"),
    ],
)
def test_a_table_that_cannot_be_used_is_named_with_its_line(opened, suffix, text, sentence):
    with pytest.raises(SourceError, match=sentence):
        opened(text, suffix=suffix)
