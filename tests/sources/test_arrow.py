"""Folders that the datasets library saved: their splits, files, rows and what is said of those that cannot be read."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from tcae_cli.errors import ImageError, NotFoundError, SourceError, UsageError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.sources.scan import open_source
from tcae_cli.sources.source import Source

from ..tables import save_arrow, with_paths

IMAGES = [b"one", b"two", b"three", b"four", b"five"]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

Opened = Callable[..., Source]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    return lambda uri="saved", **fields: open_source(str(tmp_path / uri), tmp_path / "index", SampleFields(**fields))


def keys(source: Source) -> list[str]:
    return source.keys(range(len(source)))


def sizes(source: Source) -> list[int]:
    return [source.size_bytes(row) for row in range(len(source))]


def read(source: Source) -> list[bytes | str]:
    """The bytes of all rows, or the reason why they cannot be read."""
    found = source.read_many(range(len(source)))
    return [str(data) if isinstance(data, ImageError) else data for data in found]


@pytest.fixture
def dataset(png) -> datasets.Dataset:
    """Six pictures of two classes, with captions."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["dog", "cat"]),
            "text": datasets.List(datasets.Value("string")),
        }
    )
    rows = {
        "image": with_paths({f"{seed}.png": png(seed=seed) for seed in range(6)}),
        "label": [0, 1, 0, 1, 0, None],
        "text": [[f"picture {seed}", "one"] for seed in range(5)] + [[]],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_data_set_is_read_as_the_datasets_library_saved_it(dataset, opened, png, tmp_path):
    dataset.save_to_disk(tmp_path / "saved", num_shards=2)
    source = opened()
    assert keys(source) == [f"{seed}.png" for seed in range(6)] and source.access == "row"
    assert read(source) == [png(seed=seed) for seed in range(6)]
    assert sizes(source) == [len(png(seed=seed)) for seed in range(6)]
    assert source.class_names == ("dog", "cat") and source.labels(0, 6).tolist() == [0, 1, 0, 1, 0, -1]
    assert source.caption(4) == "picture 4" and source.caption(5) == ""


def test_selected_and_shuffled_rows_are_those_that_were_saved(dataset, opened, png, tmp_path):
    dataset.select([4, 1]).save_to_disk(tmp_path / "saved")
    assert keys(opened()) == ["4.png", "1.png"] and read(opened()) == [png(seed=4), png(seed=1)]
    dataset.shuffle(seed=1).save_to_disk(tmp_path / "shuffled")
    assert sorted(keys(opened("shuffled"))) == [f"{seed}.png" for seed in range(6)]


def test_one_of_several_splits_is_chosen(dataset, opened, tmp_path):
    splits = {"train": dataset, "test": dataset.select([2])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert keys(opened(split="test")) == ["2.png"] == keys(opened("saved/test"))
    with pytest.raises(UsageError, match=r"saved has the splits train, test; choose one with --split$"):
        opened()
    with pytest.raises(NotFoundError, match=r"--split val: .*saved has no such split, only train, test$"):
        opened(split="val")
    with pytest.raises(UsageError, match=r"--split test: .*saved/test is one data set without splits; omit it$"):
        opened("saved/test", split="test")


def test_the_only_split_is_taken(dataset, opened, tmp_path):
    datasets.DatasetDict({"val": dataset}).save_to_disk(tmp_path / "saved")
    assert len(opened()) == 6


@pytest.mark.parametrize(
    ("cells", "found", "num_bytes"),
    [
        (pa.array(IMAGES, pa.binary()), IMAGES, [3, 3, 5, 4, 4]),
        (pa.array(IMAGES, pa.large_binary()), IMAGES, [3, 3, 5, 4, 4]),
        (pa.array([b"x", b"yy", b"x"]).dictionary_encode(), [b"x", b"yy", b"x"], [1, 2, 1]),
        (pa.array([(b"one", "a"), (None, None), None], STRUCT), [b"one", *["the row has no image"] * 2], [3, 0, 0]),
        (pa.array([b"x", None]), [b"x", "the row has no image"], [1, 0]),
        (pa.array([{"path": "gone"}]), ["No such file or directory"], [0]),
        (pa.array([{"bytes": None, "path": "gone"}]), ["No such file or directory"], [0]),
    ],
)
def test_images_are_of_any_binary_type_and_their_sizes_are_known(opened, cells, found, num_bytes, tmp_path):
    save_arrow(tmp_path / "saved", {"image": cells})
    assert read(opened()) == found and sizes(opened()) == num_bytes


def test_images_may_be_files_beside_the_data_set(opened, png, tmp_path):
    save_arrow(tmp_path / "saved", {"image": ["a.png", None]})
    (tmp_path / "saved/a.png").write_bytes(png())
    assert keys(opened()) == ["a.png", "data-00000-of-00001.arrow/00000001"]
    assert read(opened()) == [png(), "the row has no image"] and sizes(opened()) == [len(png()), 0]


def test_files_come_in_the_order_in_which_they_were_saved(opened, tmp_path):
    save_arrow(tmp_path / "saved", {"image": [b"1"]}, {"image": [b"2"]})
    state = json.loads((tmp_path / "saved/state.json").read_text())
    (tmp_path / "saved/state.json").write_text(json.dumps({"_data_files": state["_data_files"][::-1]}))
    assert read(opened()) == [b"2", b"1"]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("state.json", "{", r"saved/state.json is not readable as JSON \(.*\); save the data set again$"),
        ("state.json", "[]", "saved/state.json lists no files; save the data set again$"),
        ("state.json", '{"_data_files": 3}', "saved/state.json lists no files; save the data set again$"),
        (
            "state.json",
            '{"_data_files": [], "_indices_data_files": [{"filename": "indices.arrow"}]}',
            "saved is a selection of rows of other files, as early versions of datasets saved it; save it again with a",
        ),
        ("state.json", '{"_data_files": []}', "saved has no rows; give a table that holds images$"),
        ("dataset_dict.json", "{}", "saved/dataset_dict.json lists no splits; save the data set again, or name the"),
    ],
)
def test_a_folder_that_cannot_be_understood_is_a_sentence(opened, name, text, sentence, tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / name).write_text(text)
    with pytest.raises(SourceError, match=sentence):
        opened()


@pytest.mark.parametrize("make", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"hello" * 10])
def test_a_damaged_file_is_named(opened, make, tmp_path):
    path = save_arrow(tmp_path / "saved", {"image": [b"x" * 1000] * 9}) / "data-00000-of-00001.arrow"
    opened()
    path.write_bytes(make(path.read_bytes()))
    sentence = r"data-00000-of-00001\.arrow is not an Arrow file, or is damaged \(.*\); copy it again$"
    for look in (opened, lambda: Source(tmp_path / "index").read(0)):
        with pytest.raises(SourceError, match=sentence):
            look()


@pytest.mark.parametrize("columns", [{"image": IMAGES[:4]}, {"img": IMAGES}])
def test_a_file_that_changed_since_it_was_indexed_is_not_read(opened, columns, tmp_path):
    save_arrow(tmp_path / "saved", {"image": IMAGES})
    source = opened()
    save_arrow(tmp_path / "saved", columns)
    with pytest.raises(SourceError, match=r"\.arrow has changed since it was indexed; put it back, or repeat"):
        source.read(0)


def test_a_missing_file_is_named(opened, tmp_path):
    (save_arrow(tmp_path / "saved", {"image": IMAGES}) / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(
        SourceError,
        match=r"data-00000-of-00001\.arrow cannot be read \(No such file or directory\); check its permissions",
    ):
        opened()


def test_columns_are_chosen_and_those_that_cannot_be_found_are_a_sentence(opened, tmp_path):
    save_arrow(tmp_path / "saved", {"a": [b"x"], "b": [b"y"]})
    assert read(opened(image="b")) == [b"y"]
    with pytest.raises(SourceError, match="arrow has several columns that may hold the image: a, b; choose one with"):
        opened()
