"""What lies beside an image is used, or its loss is said: in a folder as in a tar of the same files."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from unicodedata import normalize

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tcae_cli.errors import SourceError, UsageError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.sources.scan import open_source
from tcae_cli.sources.source import Source

Open = Callable[..., Source]


@pytest.fixture(params=["folder", "tar", "tar.gz"])
def opened(request, make_folder, make_tar, tmp_path: Path) -> Open:
    """Opens files as a folder, or as a tar of it."""

    def open_files(files: dict[str, bytes], **fields: str) -> Source:
        path = make_folder(files) if request.param == "folder" else make_tar(f"photos.{request.param}", files)
        return open_source(str(path), tmp_path / "index", SampleFields(**fields))

    return open_files


@pytest.fixture
def images(png) -> dict[str, bytes]:
    return {f"{number}.png": png(seed=number) for number in range(3)}


def parquet_table(columns: dict[str, list]) -> bytes:
    file = BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def labels(source: Source) -> list[int]:
    return source.labels(0, len(source)).tolist()


def captions(source: Source) -> list[str]:
    return [source.caption(row) for row in range(len(source))]


def names(source: Source) -> list[str]:
    return [key.rpartition("/")[2] for key in source.keys(range(len(source)))]


SIDECARS = {
    "1.cls": (b"\xef\xbb\xbf5\n", 5, ""),
    "1.txt": (b"a lion", -1, "a lion"),
    "1.caption": (b"a lion", -1, "a lion"),
    "1.CAPTION": (b"a lion", -1, "a lion"),
    "1.json": (b'{"class_id": 5, "prompt": "a lion", "width": 9}', 5, "a lion"),
}


@pytest.mark.parametrize("name", SIDECARS)
def test_sidecars_state_labels_and_captions(opened, images, name):
    data, label, caption = SIDECARS[name]
    source = opened({**images, name: data})
    assert labels(source) == [-1, label, -1] and captions(source) == ["", caption, ""]
    assert source.passed_over == {} and source.remarks == ()


@pytest.mark.parametrize(
    ("cells", "caption"),
    [
        ({"text": "one"}, "one"),
        ({"text": "not this", "caption": "one"}, "one"),
        ({"caption": None, "description": "one"}, "one"),
        ({"Captions": ["one", "two"]}, "one"),
        ({"TEXT": "one", "prompt": "not this"}, "one"),
    ],
)
@pytest.mark.parametrize("name", ["1.json", "metadata.jsonl"])
def test_captions_are_in_the_first_of_their_usual_columns_and_first_in_lists(opened, images, name, cells, caption):
    source = opened({**images, name: json.dumps({"file_name": "1.png", **cells}).encode()})
    assert captions(source) == ["", caption, ""]
    lists = f"{source.uri}: 1 images have several captions in .{name.partition('.')[2]}, of which the first is used"
    assert any(remark.startswith(lists.replace(".jsonl", "metadata.jsonl")) for remark in source.remarks) == (
        "Captions" in cells
    )


def test_texts_beside_images_may_be_utf_16(opened, images):
    of_first = {"0.txt": "ein Löwe", "0.cls": "4"}
    of_second = {"metadata.csv": "file_name,text,label\n1.png,eine Löwin,5\n"}
    of_third = {"2.json": json.dumps({"caption": "ein Löwenjunges", "label": 6}, ensure_ascii=False)}
    texts = of_first | of_second | of_third
    source = opened(images | {name: text.encode("utf-16") for name, text in texts.items()})
    assert captions(source) == ["ein Löwe", "eine Löwin", "ein Löwenjunges"] and labels(source) == [4, 5, 6]


def test_labels_in_json_may_be_names(opened, images):
    files = {f"{number}.json": json.dumps({"label": name}).encode() for number, name in enumerate(["dog", "cat"])}
    source = opened({**images, **files})
    assert source.class_names == ("cat", "dog") and labels(source) == [1, 0, -1]
    assert source.labels_from == {"label in .json": 2} and source.captions_from == {}


def test_metadata_files_name_images_in_their_folder_by_one_of_the_usual_columns(opened, png):
    files = {"a/x/1.png": png(), "a/x/2.png": png(seed=1), "b/3.png": png(seed=2)}
    table = b"image,prompt,category\n1.png,one,cat\n./2.png,two,dog\n"
    source = opened({**files, "a/x/metadata.csv": table})
    assert captions(source) == ["one", "two", ""] and labels(source) == [0, 1, -1]
    assert source.captions_from == {"prompt in metadata.csv": 2}
    assert source.passed_over == {}


def test_metadata_may_be_parquet(opened, images):
    cells = {"file_name": ["1.png", "gone.png"], "text": ["one", None], "label": [4, 5]}
    source = opened({**images, "metadata.parquet": parquet_table(cells)})
    assert captions(source) == ["", "one", ""] and labels(source) == [-1, 4, -1]
    assert "metadata.parquet: 1 of 2 lines name no image here, the first in line 2; " in source.remarks[0]


def test_metadata_that_is_no_parquet_is_one_sentence(opened, images):
    with pytest.raises(
        SourceError, match=r"metadata\.parquet is not readable as Parquet \(.*\); write it again, or re"
    ):
        opened({**images, "metadata.parquet": b"PAR1"})


def test_dataset_json_states_labels_and_numbered_folders_are_no_classes_beside_it(opened, png):
    files = {f"0000{number // 2}/img{number}.png": png(seed=number) for number in range(4)}
    pairs = [[name, label] for name, label in zip(files, (3, 1, 3, 0), strict=True)]
    source = opened({**files, "dataset.json": json.dumps({"labels": pairs[:3]}).encode()})
    assert labels(source) == [3, 1, 3, -1] and source.class_names == () and source.remarks == ()
    source = opened({**files, "dataset.json": json.dumps({"labels": None}).encode()})
    assert labels(source) == [-1] * 4 and source.class_names == ()


def test_labels_of_dataset_json_that_name_no_image_are_said(opened, images):
    data = {"labels": {"0.png": 2, "gone/1.png": 1, "gone/2.png": 4}}
    source = opened({**images, "dataset.json": json.dumps(data).encode()})
    [remark] = source.remarks
    assert "dataset.json: 2 of 3 labels name no image here, the first of them gone/1.png; names are relative" in remark
    assert labels(source) == [2, -1, -1]


def test_a_dataset_json_of_another_kind_is_said_and_costs_nothing(opened, images):
    source = opened({**images, "dataset.json": b"[1, 2]"})
    [remark] = source.remarks
    assert (
        "dataset.json: should be a JSON object, found list; correct or remove it; until then it is not used" in remark
    )


@pytest.mark.parametrize(("of_image", "beside"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_that_unicode_spells_in_two_ways_are_one(opened, png, of_image, beside):
    name = normalize(of_image, "Élan/é")
    other = normalize(beside, "Élan/é")
    line = json.dumps({"file_name": f"{other}.png", "label": 4}, ensure_ascii=False).encode()
    source = opened({f"{name}.png": png(), "z.png": png(seed=1), f"{other}.txt": b"elk", "metadata.jsonl": line})
    assert sorted(captions(source)) == ["", "elk"] and sorted(labels(source)) == [-1, 4] and source.remarks == ()


DIFFERING = [
    ({"1.txt": b"a cat", "1.caption": b"a dog"}, "caption", ".txt", ".caption"),
    ({"1.txt": b"a cat", "1.json": b'{"caption": "a dog"}'}, "caption", ".txt", ".json"),
    ({"1.json": b'{"prompt": "a cat", "description": "a dog"}'}, "caption", "prompt", "description"),
    ({"1.cls": b"4", "1.json": b'{"label": 5}'}, "label", ".cls", ".json"),
    ({"1.json": b'{"label": 4, "category": "dog"}'}, "label", "label", "category"),
    ({"1.cls": b"4", "dataset.json": b'{"labels": [["1.png", 5]]}'}, "label", ".cls", "dataset.json"),
    ({"1.cls": b"4", "metadata.csv": b"file_name,label\n1.png,5\n"}, "label", ".cls", "metadata.csv"),
]


@pytest.mark.parametrize(("files", "field", "first", "second"), DIFFERING)
def test_places_that_disagree_are_named_with_the_option_that_chooses(opened, images, files, field, first, second):
    [sentence] = opened({**images, **files}).disagreements
    assert f": 1 images have two {field}s that differ, the first of them " in sentence and "1.png: '" in sentence
    assert sentence.endswith(f"; choose with --{field} {first} or --{field} {second}")
    for choice, text in ((first, {"label": "4", "caption": "a cat"}), (second, {"label": "5", "caption": "a dog"})):
        source = opened({**images, **files}, **{field: choice})
        assert source.disagreements == ()
        if choice != "category":  # whose classes are names
            found = {"label": str(source.label(1)), "caption": source.caption(1)}
            assert found[field] == text[field]


def test_a_chosen_column_that_two_files_have_is_to_be_corrected_or_renamed_in_one(opened, images):
    table = b"file_name,breed\n1.png,poodle\n"
    files = {"1.json": b'{"breed": "beagle"}', "metadata.csv": table}
    [sentence] = opened({**images, **files}, label="breed").disagreements
    assert sentence.endswith("; correct one of them, or rename the column breed in it")
    renamed = {**files, "metadata.csv": table.replace(b"breed", b"old")}
    source = opened({**images, **renamed}, label="breed")
    assert source.disagreements == () and source.class_names == ("beagle",)


def test_places_that_agree_are_no_disagreement(opened, images):
    files = {
        "1.cls": b"4",
        "1.txt": b"one ",
        "1.json": b'{"label": "4.0", "caption": "one"}',
        "2.json": b'{"text": ""}',
    }
    source = opened({**images, **files})
    assert source.disagreements == () and labels(source)[1] == 4 and captions(source) == ["", "one", ""]
    assert source.labels_from == {".cls": 1} and source.captions_from == {".txt": 1}


def test_class_folders_that_disagree_with_labels_are_named(opened, png):
    files = {f"{kind}/{number}.png": png(seed=number) for kind in ("cat", "dog") for number in range(2)}
    files |= {"cat/0.cls": b"1", "cat/1.cls": b"0", "dog/0.cls": b"1"}
    [sentence] = opened(files).disagreements
    assert (
        ": folders and .cls state different labels: " in sentence
        and "cat/1.png have the labels '1' and '0'" in sentence
    )
    assert sentence.endswith("; choose with --label .cls or --label folders")
    assert labels(opened(files, label="folders")) == [0, 0, 1, 1]
    assert labels(opened(files, label=".cls")) == [1, 0, 1, -1]


def test_labels_that_go_by_class_folders_are_the_labels(opened, png):
    files = {f"{kind}/{number}.png": png(seed=number) for kind in ("cat", "dog") for number in range(2)}
    files |= {"cat/0.cls": b"7", "cat/1.cls": b"7", "dog/0.cls": b"4"}
    [sentence] = opened(files).disagreements
    assert ": 1 of 4 images in class folders have no label by .cls, the first of them " in sentence
    assert sentence.endswith("dog/1.png; choose with --label .cls or --label folders")
    source = opened({**files, "dog/1.cls": b"4"})
    assert source.disagreements == () and labels(source) == [7, 7, 4, 4] and source.class_names == ()
    source = opened({**files, "dog/1.cls": b"broken"})
    assert source.disagreements == () and labels(source) == [7, 7, 4, -1]


def test_nothing_is_labelled_if_the_user_says_so(opened, png):
    files = {"cat/0.png": png(), "dog/1.png": png(seed=1), "dog/1.cls": b"4", "dog/1.txt": b"a dog"}
    source = opened(files, label="none", caption="none")
    assert labels(source) == [-1, -1] and source.class_names == () and not source.has_captions
    assert source.passed_over == {}


@pytest.mark.parametrize(
    ("files", "choice", "sentence"),
    [
        (
            {"1.json": b'{"title": "Lion"}'},
            {"caption": "headline"},
            "--caption headline: no image of .*photos.* has it; columns and keys beside the images are title, and "
            "other choices .txt, .caption, .json, metadata.csv, metadata.jsonl, metadata.parquet, none$",
        ),
        ({}, {"caption": "title"}, "columns and keys beside the images are none"),
        ({"1.txt": b""}, {"label": ".cls"}, r"--label \.cls: nothing of the kind states labels in .*; omit it"),
        ({}, {"label": "folders"}, "--label folders: the images of .* are in no folders; omit it"),
    ],
)
def test_a_choice_that_is_none_is_refused(opened, images, files, choice, sentence):
    with pytest.raises(UsageError, match=sentence):
        opened({**images, **files}, **choice)


def test_any_column_may_be_chosen(opened, images):
    table = b"file_name,text,title,kind\n0.png,a lion asleep,Lion,cat\n"
    source = opened(
        {**images, "0.txt": b"beside", "1.json": b'{"title": "Dog"}', "metadata.csv": table},
        caption="title",
        label="kind",
    )
    assert captions(source) == ["Lion", "Dog", ""] and source.class_names == ("cat",)
    assert source.captions_from == {"title in metadata.csv": 1, "title in .json": 1}


def test_json_that_states_nothing_is_said_with_a_count_and_an_example(opened, images):
    source = opened({**images, "0.json": b'{"shapes": [], "version": "5"}', "1.json": b"{}", "2.json": b"[1]"})
    known, objects = source.remarks
    assert ": 2 .json beside images have no label or caption under the names that are known; name a key of" in known
    assert "0.json, with shapes, version" in known
    assert (
        ": 1 .json beside images are no JSON objects, and are not used; the first: " in objects and "2.json" in objects
    )


def test_labels_and_captions_of_other_types_are_said_and_cost_no_row(opened, images, problems):
    source = opened({**images, "0.json": b'{"label": [1, 2], "caption": {"en": "one"}}', "1.json": b'{"label": 3}'})
    of_labels, of_captions = source.remarks
    assert ": 1 labels in .json are neither a number nor a name, and are not used; the first: " in of_labels
    assert ": 1 captions in .json are neither a text nor a list of texts, and are not used; the first:" in of_captions
    assert labels(source) == [-1, 3, -1] and problems(source) == {}


def test_of_several_lines_for_an_image_the_first_is_used_and_the_others_are_said(opened, images):
    table = b"file_name,text\n0.png,one\n0.png,two\n1.png,three\n0.png,four\n"
    source = opened({**images, "metadata.csv": table})
    [remark] = source.remarks
    assert ": 2 captions in metadata.csv come after others of the same image, which are used; the first: " in remark
    assert "metadata.csv, line 3" in remark and captions(source) == ["one", "three", ""]


def test_metadata_without_a_known_column_is_said(opened, images):
    source = opened({**images, "metadata.csv": b"file_name,title\n0.png,Lion\n"})
    [remark] = source.remarks
    assert "metadata.csv is not used: none of its 1 lines has a label or a caption in a column that is known" in remark


@pytest.mark.parametrize(
    "name",
    ["cat/@eaDir/1.png/THUMB.png", "#recycle/a.png", "$Recycle.Bin/a.png", "__MACOSX/cat/a.png", "x/lost+found/a.png"],
)
def test_system_folders_hold_no_rows_and_are_no_classes(opened, png, name):
    source = opened({"cat/1.png": png(), "dog/2.png": png(seed=1), name: png(seed=2), f"{name[:-4]}.cls": b"1"})
    assert names(source) == ["1.png", "2.png"]
    assert source.class_names == ("cat", "dog") and labels(source) == [0, 1]
    [remark] = source.remarks
    assert ": 1 images in folders of thumbnails, deleted or hidden files were passed over; the first: " in remark
    assert name in remark


def test_hidden_folders_hold_no_rows(opened, png):
    source = opened({"cat/1.png": png(), "dog/2.png": png(), "cat/.ipynb_checkpoints/1-checkpoint.png": png()})
    assert names(source) == ["1.png", "2.png"]


@pytest.mark.parametrize("splits", [("Train", "val"), ("test",), ("training", "dev", "other")])
def test_folders_that_look_like_splits_are_pointed_out(opened, png, splits):
    source = opened(
        {f"{split}/{number}.png": png(seed=number) for number, split in enumerate(splits)} | {"9.png": png()}
    )
    if source.uri.endswith("photos"):
        [remark] = source.remarks
        assert (
            "became classes but look" in remark and "like splits of a dataset; if these are no classes, pass" in remark
        )
    elif len(splits) > 1:
        [remark] = source.remarks
        assert (
            "look like splits of a dataset and did not become classes; if these are classes, pass --label f" in remark
        )
        assert labels(source) == [-1] * (len(splits) + 1)


def test_a_class_may_be_called_train(opened, png):
    source = opened({"bus/0.png": png(), "train/1.png": png(seed=1), "val d'Isere/2.png": png(seed=2)})
    assert source.class_names == ("bus", "train", "val d'Isere") and source.remarks == ()


def test_numbered_parts_are_pointed_out(opened, png):
    source = opened({f"0000{number}/0000{number}0001.png": png(seed=number) for number in range(2)})
    [remark] = source.remarks
    assert "the folders 00000, 00001 " in remark and "look like numbered parts of a dataset" in remark
