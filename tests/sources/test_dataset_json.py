"""The labels in a dataset.json, as StyleGAN and EDM2 write them."""

import json

import pytest

from tcae_cli.errors import SourceError
from tcae_cli.sources.dataset_json import read_dataset_json


def read(content):
    return read_dataset_json(json.dumps(content).encode(), "d/dataset.json")


def test_labels_are_pairs_of_a_name_and_a_number():
    found = read({"labels": [["00000/img00000000.png", 6], ["00000\\img00000001.png", -1], ["b.png", None]]})
    assert found.labels == {"00000/img00000000.png": "6", "00000/img00000001.png": "-1", "b.png": ""}
    assert not found.remark
    assert read({"labels": {"a.png": "cat"}}).labels == {"a.png": "cat"}


def test_a_set_of_images_may_have_no_labels():
    assert read({"labels": None}) == read({"labels": []})
    assert not read({"labels": None}).labels and not read({"labels": None}).remark


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        ({"fps": 3}, "d/dataset.json is not used: it has no labels, only fps"),
        (
            {"labels": [["a.png", [0.5, 1.0]]]},
            "d/dataset.json is not used: its labels are lists of numbers, and not classes",
        ),
    ],
)
def test_what_are_no_labels_of_classes_is_said(content, remark):
    assert (read(content).labels, read(content).remark) == ({}, remark)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"[", r"d/dataset.json: not readable as JSON"),
        (b"[1]", r"d/dataset.json: should be a JSON object, found list; correct or remove it"),
        (b'{"labels": 5}', r"should be a list of pairs such as \[.*, 6\], found 5; correct or remove it"),
        (b'{"labels": [["a.png"]]}', r"should be a list of pairs .* found \['a.png'\]; correct"),
        (b'{"labels": [["a.png", {}]]}', r"d/dataset.json, a.png: the label should be a number or a name, found dict"),
    ],
)
def test_labels_that_cannot_be_used_are_named(data, sentence):
    with pytest.raises(SourceError, match=sentence):
        read_dataset_json(data, "d/dataset.json")
