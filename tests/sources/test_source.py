"""What every source promises, and what is said when there is none."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from tcae_cli.errors import ImageError, NotFoundError, SourceError, UsageError
from tcae_cli.sources.index_update import PreviousIndex, index_source
from tcae_cli.sources.scan import open_source
from tcae_cli.sources.source import Source

from ..forms import DATASET, FILES, FORMS, TABLES, TARS, Sample

MakeFolder = Callable[[dict[str, bytes]], Path]
WriteSource = Callable[..., str]


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    """The form of the source."""
    return request.param


@pytest.fixture
def parts(png) -> list[list[Sample]]:
    """Five images in two classes, for two files."""
    names = [("cat", "a"), ("cat", "b"), ("cat", "c"), ("dog", "a"), ("dog", "b")]
    samples = [Sample(label, f"{name}.png", png(seed=seed)) for seed, (label, name) in enumerate(names)]
    return [samples[:3], samples[3:]]


@pytest.fixture
def source(form: str, parts: list[list[Sample]], write_source: WriteSource, tmp_path: Path) -> Source:
    """The five images, as each form of source."""
    return open_source(write_source(form, *parts), tmp_path / "index")


def with_captions(parts: list[list[Sample]]) -> list[list[Sample]]:
    return [[replace(sample, caption=f"a photo of {sample.path}") for sample in part] for part in parts]


@pytest.fixture
def remove_last_image(source: Source, form: str, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], None]:
    """Removes the file that holds the last image."""

    def remove() -> None:
        for pattern in ("photos/dog/b.png", "part-1.*", "*-00001-of-*.arrow"):
            for path in tmp_path.glob(f"source/{pattern}"):
                path.unlink()
        if form == "hub":
            for files in request.getfixturevalue("hub").commits[DATASET].values():
                del files["part-1.parquet"]

    return remove


def read(source: Source, row: int) -> bytes:
    """The bytes of a row, of sources that are read front to back too."""
    (found,) = source.read_many([row])
    if isinstance(found, ImageError):
        raise found
    return found


def rows_of(source: Source, num_rows: int = 5) -> list[tuple[str, bytes]]:
    """The ends of the keys, and the bytes, of the rows."""
    assert len(source) == num_rows
    keys = ["/".join(key.split("/")[-2:]) for key in source.keys(range(num_rows))]
    return list(zip(keys, source.read_many(range(num_rows)), strict=True))


def test_rows_have_keys_labels_and_bytes_in_one_order(source: Source, form: str, parts, png):
    assert rows_of(source) == [(sample.path, sample.data) for sample in chain(*parts)]
    assert source.labels(0, 5).tolist() == [0, 0, 0, 1, 1] and source.labels(0, 5).dtype == np.int64
    assert source.class_names == (() if form in ("list", *TARS) else ("cat", "dog"))
    assert [source.label(row) for row in (4, 0)] == [1, 0]
    for row in (3, 0, 4, 1, 2):
        assert read(source, row) == png(seed=row)
        assert source.size_bytes(row) == (0 if form in ("parquet", "hub") else len(png(seed=row)))  # 0: not known
    with pytest.raises(IndexError):
        source.key(5)


def test_any_row_is_read_unless_rows_are_read_front_to_back_alone(source: Source, png):
    if source.access != "stream":
        assert [source.read(row) for row in (4, 0, 2)] == [png(seed=row) for row in (4, 0, 2)]
        return
    with pytest.raises(SourceError, match=r"part-\*\.tar\.\w+ is compressed, and is read front to back; decompress it"):
        source.read(0)


def test_a_source_without_captions_says_so(source: Source):
    assert not source.has_captions and source.caption(0) == ""


@pytest.mark.parametrize("form", sorted({*FORMS} - {"list"}), indirect=True)
def test_captions_are_those_of_the_images(form, parts, write_source: WriteSource, tmp_path: Path):
    described = with_captions(parts)
    source = open_source(write_source(form, *described), tmp_path / "index")
    assert source.has_captions
    assert [source.caption(row) for row in range(5)] == [sample.caption for sample in chain(*described)]
    assert rows_of(source) == [(sample.path, sample.data) for sample in chain(*parts)]


def test_the_index_gives_the_same_source_without_a_scan(source: Source, tmp_path: Path):
    for again in (Source(tmp_path / "index"), pickle.loads(pickle.dumps(source))):
        assert again.keys(range(5)) == source.keys(range(5))
        assert read(again, 4) == read(source, 4)
        assert (again.uri, again.fingerprint, again.class_names) == (source.uri, source.fingerprint, source.class_names)


def test_scanning_again_gives_the_same_fingerprint(source: Source, tmp_path: Path):
    assert open_source(source.uri, tmp_path / "index2").fingerprint == source.fingerprint


def test_the_fingerprint_does_not_know_where_the_source_lies(source: Source, form, parts, write_source, tmp_path: Path):
    moved = write_source(form, *parts, where="elsewhere")
    assert open_source(moved, tmp_path / "index2").fingerprint == source.fingerprint


def test_the_fingerprint_sees_another_name_and_another_size(source: Source, form, parts, write_source, tmp_path: Path):
    first, *others = parts[0]
    fingerprints = {source.fingerprint}
    for changed in (replace(first, name="aa.png"), replace(first, data=first.data + b"\0" * 600)):
        uri = write_source(form, [changed, *others], parts[1])
        fingerprints.add(open_source(uri, tmp_path / "index2").fingerprint)
    assert len(fingerprints) == 3


def test_a_source_that_is_indexed_again_resumes_at_any_row(source: Source, parts, tmp_path: Path):
    assert not index_source(source.uri, tmp_path / "again", PreviousIndex(source.index_dir))
    again = Source(tmp_path / "again")
    assert (again.fingerprint, again.keys(range(5))) == (source.fingerprint, source.keys(range(5)))
    for begun_at in (2, 4):
        rest = list(pickle.loads(pickle.dumps(again)).read_many(range(begun_at, 5)))
        assert rest == [sample.data for sample in chain(*parts)][begun_at:]


def test_images_that_are_new_come_after_the_rows_there_are(form, parts, write_source, png, tmp_path: Path):
    new = [Sample("ant", "a.png", png(seed=5)), Sample("cat", "d.png", png(seed=6))]
    old, grown = with_captions(parts), with_captions([*parts, new])
    before = open_source(write_source(form, *old), tmp_path / "before")
    uri = write_source(form, *grown)
    changes = index_source(uri, tmp_path / "after", PreviousIndex(before.index_dir, append=True))
    after = Source(tmp_path / "after")
    assert (changes.num_new, changes.num_changed, changes.num_vanished) == (2, 0, 0)
    assert rows_of(after, 7) == [(sample.path, sample.data) for sample in chain(*grown)]
    assert after.keys(range(5)) == before.keys(range(5)) and after.fingerprint != before.fingerprint
    assert after.labels(0, 7).tolist() == [0, 0, 0, 1, 1, 2, 0]
    assert after.class_names == (*before.class_names, *(["ant"] if before.class_names else []))
    if form != "list":
        assert [after.caption(row) for row in range(7)] == [sample.caption for sample in chain(*grown)]

    assert not index_source(uri, tmp_path / "again", PreviousIndex(after.index_dir))
    again = Source(tmp_path / "again")
    assert (again.fingerprint, again.keys(range(7))) == (after.fingerprint, after.keys(range(7)))


def test_an_image_that_changed_keeps_its_row_which_is_back_once_the_image_is(
    source: Source, form, parts, write_source, png, tmp_path: Path
):
    first, *others = parts[0]
    uri = write_source(form, [replace(first, data=first.data + b"\0" * 600), *others], parts[1])
    changes = index_source(uri, tmp_path / "changed", PreviousIndex(source.index_dir, append=True))
    assert changes.num_changed >= 1 and changes.num_new == changes.num_vanished == 0
    changed = Source(tmp_path / "changed")
    assert changed.keys(range(5)) == source.keys(range(5)) and list(changed.read_many([4])) == [png(seed=4)]
    assert index_source(uri, tmp_path / "still", PreviousIndex(changed.index_dir, append=True)) == changes

    write_source(form, *parts)
    assert not index_source(uri, tmp_path / "back", PreviousIndex(tmp_path / "still"))
    assert rows_of(Source(tmp_path / "back")) == rows_of(source)
    assert Source(tmp_path / "back").fingerprint == source.fingerprint


@pytest.mark.parametrize("form", [*FILES, *TARS, "zip"], indirect=True)
def test_a_file_that_went_away_fails_its_row_alone(source: Source, png, remove_last_image):
    remove_last_image()
    with pytest.raises(ImageError, match="No such file") as raised:
        read(source, 4)
    assert raised.value.stage == "read"
    first, gone, second = source.read_many([1, 4, 0])
    assert (first, second) == (png(seed=1), png(seed=0))
    assert isinstance(gone, ImageError) and (gone.stage, str(gone)) == ("read", "No such file or directory")
    assert not source.is_remote


@pytest.mark.parametrize("form", TABLES, indirect=True)
def test_a_table_is_not_read_without_one_of_its_files(source: Source, png, remove_last_image):
    remove_last_image()
    assert source.read(0) == png(seed=0)
    with pytest.raises(
        SourceError,
        match=r"(part-1\.parquet|1-of-00002\.arrow) no longer exists; put it back, and repeat|"
        rf"{DATASET}@\w+/part-1\.parquet does not exist; its files are listed at",
    ):
        source.read(4)
    with pytest.raises(SourceError, match=r"no longer exists|does not exist"):
        list(source.read_many([4]))
    assert source.read(1) == png(seed=1)


def test_the_index_holds_what_the_scan_found(source: Source):
    entries = list(source.entries())
    assert [entry.key for entry in entries] == source.keys(range(5))
    assert [(entry.size_bytes, entry.label) for entry in entries] == [
        (source.size_bytes(row), source.label(row)) for row in range(5)
    ]


@pytest.mark.parametrize(
    ("uri", "error", "sentence"),
    [
        (
            "nowhere",
            NotFoundError,
            r"nowhere does not exist; give tar shards \(.tar, .tar.gz, .tgz, .tar.zst\), an image list "
            r"\(.txt, .csv, .tsv, .jsonl\), zip archives \(.zip\), samples in an .npz, "
            r"Parquet files \(.parquet\), "
            r"a dataset of the Hugging Face Hub \(hf://datasets/ORG/NAME\), a folder written by save_to_disk or a "
            r"folder of images$",
        ),
        ("ftp://host/photos", UsageError, "ftp:// is not a protocol tcae knows; use a local path or one of s3://"),
        (
            "http://host/photos/",
            SourceError,
            "folders cannot be listed over http; give its tars or Parquet files as a pattern, or an image list",
        ),
        ("pipe:cat 0.tar", SourceError, "pipe:cat 0.tar is a command, and images are read by position; give its tars"),
        (
            "photo.png",
            SourceError,
            r"photo.png is not a source of images; give tar shards \(.tar, .tar.gz, .tgz, .tar.zst\), an image list "
            r"\(.txt, .csv, .tsv, .jsonl\), zip archives \(.zip\), samples in an .npz, "
            r"Parquet files \(.parquet\), "
            r"a dataset of the Hugging Face Hub \(hf://datasets/ORG/NAME\), a folder written by save_to_disk or a "
            r"folder of images$",
        ),
    ],
)
def test_what_is_no_source_is_refused(uri, error, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(error, match=sentence):
        open_source(uri, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_folder_without_an_index_is_refused(tmp_path: Path):
    with pytest.raises(SourceError, match=r"holds no index of a source \(No such file or directory\); open the source"):
        Source(tmp_path)


def test_an_index_of_another_version_is_refused(source: Source, tmp_path: Path):
    summary = tmp_path / "index/source.json"
    summary.write_text(summary.read_text().replace('"index_version": 3', '"index_version": 1'))
    with pytest.raises(SourceError, match="was made by another version of tcae; remove it and open the source again"):
        Source(tmp_path / "index")
