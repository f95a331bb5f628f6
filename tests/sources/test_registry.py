"""A kind of source is a class and a line: its names are recognised, and messages name it."""

from pathlib import Path

import pytest

from tcae_cli.errors import NotFoundError
from tcae_cli.sources.index import Entry, Listing
from tcae_cli.sources.registry import KINDS
from tcae_cli.sources.source import open_source


class Gallery:
    """The photographs of a place that has one."""

    words = "a gallery:NAME"

    def recognises(self, uri):
        return uri.startswith("gallery:")

    def scan(self, uri, on_progress):
        return Listing(uri, f"/{uri.removeprefix('gallery:')}/", [Entry("a.png", 1), Entry("b.png", 2)])


@pytest.fixture
def gallery(add) -> None:
    add(KINDS, "gallery", Gallery)


def test_a_kind_that_is_registered_is_scanned_and_named(gallery, tmp_path):
    source = open_source("gallery:photos", tmp_path / "index")
    assert source.keys(range(2)) == ["a.png", "b.png"] and source.uri == "gallery:photos"
    with pytest.raises(NotFoundError, match=r"nowhere does not exist; give tar shards .* or a gallery:NAME$"):
        open_source("nowhere", tmp_path / "index")


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("photos", "folder"),
        ("photos.tar", "folder"),
        ("s3://bucket/photos", "folder"),
        ("shards/{000..127}.tar", "tar"),
        ("https://host/0.tar?signature=x.txt", "tar"),
        ("s3://bucket/list.TXT", "list"),
        ("list.txt", "list"),
        ("photo.png", None),
        ("nothing.txt", None),
    ],
)
def test_a_name_is_of_one_kind(uri, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "photos.tar"):
        Path(name).mkdir()
    for name in ("list.txt", "photo.png"):
        Path(name).touch()
    assert [name for name, each in KINDS.items() if each().recognises(uri)][:1] == ([kind] if kind else [])
