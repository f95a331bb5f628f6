"""The sentences about a source that is being indexed."""

import pytest

from tcae_cli.sources import announce
from tcae_cli.sources.announce import found_so_far, say_found
from tcae_cli.sources.scan import open_source

from ..heard import Heard


class Found:
    """A source of some thousand images."""

    uri = "photos"

    def __init__(self, passed_over=None, remarks=()) -> None:
        self.passed_over = passed_over or {}
        self.labels_from: dict[str, int] = {}
        self.captions_from: dict[str, int] = {}
        self.remarks = tuple(remarks)

    def __len__(self) -> int:
        return 1150


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.mark.parametrize(
    ("reports", "said"),
    [
        (((0.1, 999), (1, 1000), (2, 2000), (5.9, 3000), (6.1, 4000), (12, 4001)), ["1,000", "4,000", "4,001"]),
        (((0.1, 24),), []),
        (((1, 100), (5.1, 200), (6, 300)), ["200"]),
    ],
    ids=["many", "few", "few and slow"],
)
def test_a_count_is_said_at_the_first_thousand_and_then_every_few_seconds(heard, monkeypatch, reports, said):
    now = 1000.0
    monkeypatch.setattr(announce.time, "monotonic", lambda: now)
    report = found_so_far("photos", heard)
    for seconds, count in reports:
        now = 1000.0 + seconds
        report(count)
    assert heard.said == [f"photos: {count} found so far" for count in said]


def test_a_remote_source_is_named_before_anything_is_found(heard):
    found_so_far("s3://bucket/photos", heard)
    assert heard.said == ["s3://bucket/photos: indexing"]


@pytest.mark.parametrize(
    ("passed_over", "words"),
    [
        ({}, "photos: 1,150 images"),
        (
            {".heic": 2, "no suffix": 1},
            "photos: 1,150 images; 3 of 1,153 files (0.26%) are not images and were passed over: 2 .heic, 1 no suffix",
        ),
        (
            {f".{number}": 1000 for number in range(6)},
            "photos: 1,150 images; 6,000 of 7,150 files (83.92%) are not images and were passed over: "
            "1,000 .0, 1,000 .1, 1,000 .2, 1,000 .3, 1,000 .4, ...",
        ),
    ],
)
def test_the_share_that_was_passed_over_is_said_by_suffix(heard, passed_over, words):
    say_found(Found(passed_over), heard)
    assert heard.said == [words, "photos: no image has a label, none has a caption"]


def test_a_tiny_share_is_not_called_none(heard, monkeypatch):
    monkeypatch.setattr(Found, "__len__", lambda _: 999_999)
    say_found(Found({".heic": 1}), heard)
    assert "1 of 1,000,000 files (under 0.01%)" in heard.said[0]


def test_of_many_remarks_the_first_are_said(heard):
    say_found(Found(remarks=[f"remark {number}" for number in range(7)]), heard)
    assert heard.said[2:] == [*(f"remark {number}" for number in range(5)), "photos: 2 more remarks like these"]


def test_opening_a_source_says_what_it_holds_and_what_it_does_not_use(heard, make_folder, png, tmp_path):
    files = {f"{number}.png": png() for number in range(20)}
    folder = make_folder({**files, "a.heic": b"", "0.txt": b"zero", "metadata.csv": b"title,text\n"})
    open_source(str(folder), tmp_path / "index", progress=heard)
    assert heard.said == [
        f"{folder}: 20 images; 1 of 21 files (4.76%) are not images and were passed over: 1 .heic",
        f"{folder}: no image has a label, 1 have a caption (.txt)",
        f"{folder}/metadata.csv is not used: it has no column file_name, nor another one that must be the name of the "
        "image, only title, text",
    ]
