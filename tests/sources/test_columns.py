"""The columns of a table: which one holds what, and what its cells mean."""

import pytest

from tcae_cli.errors import SourceError, UsageError
from tcae_cli.sources.columns import CAPTION_NAMES, caption_in, choose, choose_image, label_in, number_labels, usual

COLUMNS = ["id", "File_Name", "Text", "caption", "url"]


def test_columns_are_known_by_usual_names_in_either_case():
    assert usual(COLUMNS, CAPTION_NAMES) == ["Text", "caption"]


def test_the_only_candidate_is_chosen_and_none_is_an_answer():
    assert choose("caption", None, COLUMNS, ["Text"], "list.csv") == "Text"
    assert choose("label", None, COLUMNS, [], "list.csv") is None


def test_the_user_may_name_any_column():
    assert choose("caption", "id", COLUMNS, ["Text", "caption"], "list.csv") == "id"


def test_several_candidates_are_named_with_the_option_that_chooses():
    with pytest.raises(
        SourceError, match=r"list\.csv has several columns that may hold the caption: Text, caption; choose one with "
    ) as raised:
        choose("caption", None, COLUMNS, ["Text", "caption"], "list.csv")
    assert str(raised.value).endswith("choose one with --caption")


def test_a_column_that_does_not_exist_is_refused():
    with pytest.raises(
        UsageError, match=r"--label size: list\.csv has no such column, only id, File_Name, .*, url; name one of these$"
    ):
        choose("label", "size", COLUMNS, [], "list.csv")


def test_without_images_the_columns_are_listed():
    with pytest.raises(
        SourceError,
        match=r"list\.csv has no column that is known to hold images, only id, size; name one with --image$",
    ):
        choose_image(None, ["id", "size"], [], "list.csv")


@pytest.mark.parametrize(
    ("cells", "labels", "names"),
    [
        (["3", "0", "", "-1", "3"], [3, 0, -1, -1, 3], ()),
        (["3.0", "", "12.0"], [3, -1, 12], ()),
        (["3.0", "-1.0", "12.0"], [3, -1, 12], ()),
        (["3", "-100", "12"], [3, -1, 12], ()),
        (["-7", "other"], [0, 1], ("-7", "other")),
        (["dog", "", "cat", "dog"], [1, -1, 0, 1], ("cat", "dog")),
        (["10", "9", "other"], [0, 1, 2], ("10", "9", "other")),
        (["9" * 19], [0], ("9" * 19,)),
        (["", ""], [-1, -1], ()),
    ],
)
def test_labels_are_numbers_or_names_numbered_by_sorted_name(cells, labels, names):
    assert number_labels(cells) == (labels, names)


@pytest.mark.parametrize(
    ("cell", "caption"),
    [(" a lion\n", "a lion"), (["one", "two"], "one"), ([], ""), (None, ""), ([None], ""), (7, "7")],
)
def test_a_caption_is_a_text_or_the_first_of_several(cell, caption):
    assert caption_in(cell, "list.jsonl, line 1") == caption


def test_a_caption_of_another_kind_is_refused():
    with pytest.raises(
        SourceError, match=r"line 1: the caption should be a text or a list of texts, found dict; choose another column"
    ):
        caption_in([{"en": "a lion"}], "list.jsonl, line 1")


@pytest.mark.parametrize(
    ("cell", "label"),
    [
        (3, "3"),
        (3.0, "3.0"),
        (" cat ", "cat"),
        (True, "true"),
        (None, ""),
        (float("nan"), ""),
        ("cat\ud83d", "cat?"),  # half an emoji, which JSON may escape and UTF-8 cannot hold
    ],
)
def test_a_label_is_a_number_or_a_name(cell, label):
    assert label_in(cell, "list.jsonl, line 1") == label


def test_several_labels_are_refused():
    with pytest.raises(
        SourceError,
        match="line 1: the label should be a number or a name, found list; choose another column with --label",
    ):
        label_in([1, 2], "list.jsonl, line 1")
