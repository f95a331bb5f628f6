"""A run and `tcae info` say how many rows have a label and a caption, and where these come from."""

import json
from pathlib import Path

import pytest

from tcae_cli.errors import SourceError
from tcae_cli.jobs.info import describe_store
from tcae_cli.reports.described import described_words
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.store import InfoReport, InfoRequest
from tcae_cli.store.reader import LatentStore


def info(store: Path) -> InfoReport:
    return describe_store(InfoRequest(store=str(store)), Silent())


@pytest.fixture
def source(make_folder, png) -> Path:
    """Three images, of which two have a label and one a caption."""
    images = {f"{number}.png": png(72, 72, seed=number) for number in range(3)}
    return make_folder({**images, "0.cls": b"4", "1.json": b'{"label": 2, "text": "a lion"}'})


@pytest.mark.parametrize(
    ("labels_from", "captions_from", "words"),
    [
        ({}, {}, "no image has a label, none has a caption"),
        ({"class folders": 1200}, {}, "1,200 of 2,000 images have a label (class folders), none has a caption"),
        ({}, {".txt": 3, "text in .json": 1}, "no image has a label, 4 have a caption (3 .txt, 1 text in .json)"),
    ],
)
def test_labels_and_captions_are_said_with_their_places(labels_from, captions_from, words):
    assert described_words(2000, labels_from, captions_from) == words


def test_a_run_and_info_say_where_labels_and_captions_come_from(source, tmp_path, encode):
    report = encode(source, tmp_path / "store.zarr")
    found = info(tmp_path / "store.zarr")
    for described in (report, found):
        assert described.labels_from == {".cls": 1, "label in .json": 1}
        assert described.captions_from == {"text in .json": 1}


def test_rows_keep_what_they_were_first_listed_with_and_that_is_said(source, tmp_path, encode):
    encode(source, tmp_path / "store.zarr")
    (source / "0.cls").write_text("5")
    (source / "2.txt").write_text("a tiger")
    report = encode(source, tmp_path / "store.zarr")
    assert report.labels_from == {"label in .json": 1, "an earlier listing": 1}
    assert report.captions_from == info(tmp_path / "store.zarr").captions_from == {"text in .json": 1}


def test_of_an_index_that_does_not_say_they_are_counted_in_the_store(source, tmp_path, encode):
    encode(source, tmp_path / "store.zarr")
    [path] = (tmp_path / "store.zarr").rglob("source.json")
    summary = json.loads(path.read_bytes())
    earlier = {name: value for name, value in summary.items() if not name.endswith("_from") and name != "crc32c"}
    path.write_text(json.dumps(earlier))
    found = info(tmp_path / "store.zarr")
    assert found.labels_from == {"an earlier listing": 2} and found.captions_from == {"an earlier listing": 1}


def test_places_that_disagree_are_refused_before_anything_is_written(source, tmp_path, encode):
    (source / "1.txt").write_text("a tiger")
    with pytest.raises(
        SourceError, match=r"two captions that differ, .*; choose with --caption \.txt or --caption \.js"
    ):
        encode(source, tmp_path / "store.zarr")
    assert not (tmp_path / "store.zarr").exists()


def test_a_store_is_resumed_though_places_disagree_by_now_and_appended_once_one_is_chosen(
    source, png, tmp_path, encode, tcae, small_checkpoint
):
    store = tmp_path / "store.zarr"
    encode(source, store)
    (source / "1.txt").write_text("a tiger")
    assert encode(source, store).complete
    (source / "3.png").write_bytes(png(72, 72, seed=3))
    with pytest.raises(SourceError, match="choose with --caption"):
        encode(source, store, append=True)
    options = ("--model", small_checkpoint, "--device", "cpu", "--workers", "0", "--append", "--caption", ".txt")
    code, out, _ = tcae("encode-dataset", source, store, *options)
    assert code == 0 and "2 of 4 images have a label (1 .cls, 1 label in .json), 1 have a caption" in out
    assert LatentStore(store).captions(range(4)) == ["", "a lion", "", ""]
