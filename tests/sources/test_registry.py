"""A kind of source is a class and a line: its names are recognised, and messages name it."""

from pathlib import Path

import pytest

from tcae_cli.errors import NotFoundError, UsageError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.sources.files import FileReader
from tcae_cli.sources.listing import Entry, Listing
from tcae_cli.sources.registry import KINDS
from tcae_cli.sources.scan import open_source


class Gallery:
    """The photographs of a place that has one."""

    words = "a gallery:NAME"
    fields = frozenset({"label"})

    def recognises(self, uri):
        return uri.startswith("gallery:")

    def scan(self, uri, fields, on_progress):
        entries = [Entry("a.png", 1), Entry("b.png", 2, caption=fields.label or "")]
        return Listing(uri, f"/{uri.removeprefix('gallery:')}/", entries, kind="gallery")

    def reader(self, located):
        return FileReader(located)


@pytest.fixture
def gallery(add) -> None:
    add(KINDS, "gallery", Gallery)


def test_a_kind_that_is_registered_is_scanned_and_named(gallery, tmp_path):
    source = open_source("gallery:photos", tmp_path / "index")
    assert source.keys(range(2)) == ["a.png", "b.png"] and source.uri == "gallery:photos"
    with pytest.raises(NotFoundError, match=r"nowhere does not exist; give tar shards .* or a gallery:NAME$"):
        open_source("nowhere", tmp_path / "index")


def test_a_kind_gets_the_fields_that_it_takes_and_others_are_refused(gallery, tmp_path):
    source = open_source("gallery:photos", tmp_path / "index", SampleFields(label="artist"))
    assert source.caption(1) == "artist"
    with pytest.raises(UsageError, match="--image: gallery:photos is a gallery:NAME, which has nothing to choose by"):
        open_source("gallery:photos", tmp_path / "index", SampleFields(image="png"))


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("photos", "folder"),
        ("photos.tar", "folder"),
        ("s3://bucket/photos", "folder"),
        ("hf://datasets/org/photos", "hub"),
        ("hf://datasets/org/photos@main#test", "hub"),
        ("hf://datasets/org/photos/images", "folder"),
        ("hf://datasets/org/photos/0.tar", "tar"),
        ("hf://datasets/org/photos@main/data/*.parquet", "parquet"),
        ("shards/{000..127}.tar", "tar"),
        ("https://host/0.tar?signature=x.txt", "tar"),
        ("photos.TAR.GZ", "tar"),
        ("shards/*.tgz", "tar"),
        ("s3://bucket/{0..9}.tar.zst", "tar"),
        ("https://host/0.tar.gz?signature=x.txt", "tar"),
        ("photos.gz", None),
        ("s3://bucket/photos.tar/", "folder"),
        ("s3://bucket/list.TXT", "list"),
        ("photos.ZIP", "zip"),
        ("s3://bucket/samples.npz", "npz"),
        ("https://host/{0..9}.zip?signature=x.tar", "zip"),
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
