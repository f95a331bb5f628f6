"""Lists of class names, and sources that are numbered by them."""

import pytest

from tcae_cli.errors import NotFoundError, SourceError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.sources.class_numbers import read_class_names
from tcae_cli.sources.scan import open_source


@pytest.fixture
def labels(tmp_path):
    """Opens a source whose classes are numbered by a list; gives the label of each key."""

    def open_with(uri, *class_names: str) -> dict[str, int]:
        source = open_source(str(uri), tmp_path / "index", SampleFields(classes=class_names))
        assert source.class_names == class_names
        return {source.key(row): source.label(row) for row in range(len(source))}

    return open_with


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("names.txt", b"bird\ncat\nK\xc3\xa4fer\n\n"),
        ("windows.txt", b"\xef\xbb\xbfbird\r\ncat \r\nK\xc3\xa4fer"),
        ("names.json", b'["bird", "cat", "K\\u00e4fer"]'),
    ],
)
def test_a_list_has_a_name_a_line_or_is_json(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert read_class_names(str(tmp_path / name)) == ("bird", "cat", "Käfer")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("n.txt", "bird\n\ncat\n", "line 2, is empty, and the place of a line is its class number; remove it"),
        ("n.txt", "bird\ncat\nbird\n", "names bird as class 0 and as class 2; name each class once"),
        ("n.txt", " \n", "names no class; write the name of one class a line"),
        ("n.json", '{"bird": 0}', "should be a JSON list of class names; correct it, or give one name a line"),
        ("n.json", "[", "not readable as JSON"),
    ],
)
def test_a_list_that_cannot_number_classes_is_refused(tmp_path, name, data, words):
    (tmp_path / name).write_text(data)
    with pytest.raises(SourceError, match=f"{name}.*{words}"):
        read_class_names(str(tmp_path / name))


def test_a_list_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(NotFoundError, match=r"nowhere\.txt does not exist; name a file of class names, or a store"):
        read_class_names(str(tmp_path / "nowhere.txt"))


def test_class_folders_are_numbered_by_the_list(make_folder, labels, png):
    folder = make_folder({"dog/1.png": png(), "cat/1.png": png(), "top.png": png()})
    assert labels(folder, "bird", "dog", "cat") == {"cat/1.png": 2, "dog/1.png": 1, "top.png": -1}


def test_names_are_the_same_in_composed_and_decomposed_form(make_folder, labels, png):
    assert labels(make_folder({"Ka\u0308fer/1.png": png()}), "bird", "K\u00e4fer") == {"Ka\u0308fer/1.png": 1}


def test_numbers_are_places_in_the_list_unless_its_names_are_numbers(tmp_path, labels):
    (tmp_path / "list.txt").write_text("a.png\t2\nb.png\t0\nc.png\n")
    assert labels(tmp_path / "list.txt", "bird", "cat", "dog") == {"a.png": 2, "b.png": 0, "c.png": -1}
    assert labels(tmp_path / "list.txt", "2", "7", "0") == {"a.png": 0, "b.png": 2, "c.png": -1}


def test_a_class_that_is_not_in_the_list_is_named(make_folder, labels, png, tmp_path):
    folder = make_folder({"cats/1.png": png(), "eel/1.png": png(), "dog/1.png": png()})
    with pytest.raises(
        SourceError,
        match=r"of its classes 2 are not among the 2 of --classes: cats, eel \(did you mean "
        r"cat\?\); give a list that has them, or move their images away",
    ):
        labels(folder, "cat", "dog")
    (tmp_path / "list.txt").write_text("a.png\t2\n")
    with pytest.raises(SourceError, match="of its classes 1 are not among the 2 of --classes: 2; give a list"):
        labels(tmp_path / "list.txt", "cat", "dog")


def test_a_source_without_labels_has_nothing_to_number(make_folder, labels, png):
    with pytest.raises(SourceError, match="has no labels, so --classes has nothing to number; omit it"):
        labels(make_folder({"1.png": png()}), "cat")
