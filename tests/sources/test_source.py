"""What every source promises, and what is said when there is none."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tcae_cli.errors import ImageError, NotFoundError, SourceError, UsageError
from tcae_cli.sources.source import Source, open_source

from ..tables import save_arrow, table, with_paths, write_parquet

MakeFolder = Callable[[dict[str, bytes]], Path]


ONE_BY_ONE = ["folder", "list", "csv", "tsv", "jsonl", "tar", "tar.gz", "tar.zst"]
TABLES = ["parquet", "arrow"]  # which are not read without one of their files
SAMPLES = [("cat", "a"), ("cat", "b"), ("cat", "c"), ("dog", "a"), ("dog", "b")]


@pytest.fixture(params=[*ONE_BY_ONE, *TABLES])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the source."""
    return request.param


@pytest.fixture
def source(kind: str, make_folder: MakeFolder, make_tar, png, tmp_path: Path) -> Source:
    """Five images in two classes, as each kind of source."""
    images = {f"{label}/{name}.png": png(seed=seed) for seed, (label, name) in enumerate(SAMPLES)}
    if kind == "folder":
        return open_source(str(make_folder(images)), tmp_path / "index")
    if kind == "list":
        make_folder(images)
        lines = [f"photos/{name}\t{['cat', 'dog'].index(name[:3])}" for name in reversed(images)]
        (tmp_path / "list.txt").write_text("\n".join(lines))
        return open_source(str(tmp_path / "list.txt"), tmp_path / "index")
    if kind in ("csv", "tsv", "jsonl"):
        make_folder(images)
        rows = [(f"photos/{name}", ["cat", "dog"].index(name[:3])) for name in reversed(images)]
        path = tmp_path / f"list.{kind}"
        path.write_text(table(["file_name", "label"], rows, kind))
        return open_source(str(path), tmp_path / "index")
    numbers = [["cat", "dog"].index(name[:3]) for name in images]
    if kind in TABLES:
        cells = with_paths(images)
        tables = [{"image": cells[rows], "label": numbers[rows]} for rows in (slice(3), slice(3, 5))]
        if kind == "arrow":
            return open_source(str(save_arrow(tmp_path / "saved", *tables)), tmp_path / "index")
        for number, columns in enumerate(tables):
            write_parquet(tmp_path / f"part-{number}.parquet", columns)
        return open_source(str(tmp_path / "part-*.parquet"), tmp_path / "index")
    labels = {name.replace(".png", ".cls"): str(["cat", "dog"].index(name[:3])).encode() for name in images}
    members = [item for pair in zip(images.items(), labels.items(), strict=True) for item in pair]
    make_tar(f"part-0.{kind}", dict(members[:4]))
    make_tar(f"part-1.{kind}", dict(members[4:]))
    return open_source(str(tmp_path / f"part-{{0..1}}.{kind}"), tmp_path / "index")


def read(source: Source, row: int) -> bytes:
    """The bytes of a row, of sources that are read front to back too."""
    (found,) = source.read_many([row])
    if isinstance(found, ImageError):
        raise found
    return found


def test_rows_have_keys_labels_and_bytes_in_one_order(source: Source, kind: str, png):
    assert len(source) == 5
    assert [key.split("/")[-2:] for key in source.keys(range(5))] == [[kind, f"{name}.png"] for kind, name in SAMPLES]
    assert source.labels(0, 5).tolist() == [0, 0, 0, 1, 1] and source.labels(0, 5).dtype == np.int64
    assert [source.label(row) for row in (4, 0)] == [1, 0]
    for row in (3, 0, 4, 1, 2):
        assert read(source, row) == png(seed=row)
        assert source.size_bytes(row) == (0 if kind == "parquet" else len(png(seed=row)))  # 0: not known
    with pytest.raises(IndexError):
        source.key(5)


def test_any_row_is_read_unless_rows_are_read_front_to_back_alone(source: Source, png):
    if source.access != "stream":
        assert [source.read(row) for row in (4, 0, 2)] == [png(seed=row) for row in (4, 0, 2)]
        return
    with pytest.raises(
        SourceError, match=r"part-\{0\.\.1}\.tar\.\w+ is compressed, and is read front to back; decompress it"
    ):
        source.read(0)


def test_a_source_without_captions_says_so(source: Source):
    assert not source.has_captions and source.caption(0) == ""


def test_the_index_gives_the_same_source_without_a_scan(source: Source, tmp_path: Path):
    for again in (Source(tmp_path / "index"), pickle.loads(pickle.dumps(source))):
        assert again.keys(range(5)) == source.keys(range(5))
        assert read(again, 4) == read(source, 4)
        assert (again.uri, again.fingerprint, again.class_names) == (source.uri, source.fingerprint, source.class_names)


def test_scanning_again_gives_the_same_fingerprint(source: Source, tmp_path: Path):
    assert open_source(source.uri, tmp_path / "index2").fingerprint == source.fingerprint


@pytest.mark.parametrize("kind", ONE_BY_ONE, indirect=True)
def test_a_file_that_went_away_fails_its_row_alone(source: Source, tmp_path: Path):
    for path in (*tmp_path.glob("photos/dog/b.png"), *tmp_path.glob("part-1.tar*")):
        path.unlink()
    with pytest.raises(ImageError, match="No such file") as raised:
        read(source, 4)
    assert raised.value.stage == "read"
    assert read(source, 0)


@pytest.mark.parametrize("kind", TABLES, indirect=True)
def test_a_table_is_not_read_without_one_of_its_files(source: Source, png, tmp_path: Path):
    for path in (*tmp_path.glob("part-1.parquet"), *tmp_path.glob("saved/*-00001-of-*.arrow")):
        path.unlink()
    assert source.read(0) == png(seed=0)
    with pytest.raises(
        SourceError, match=r"(part-1\.parquet|1-of-00002\.arrow) no longer exists; put it back, and repeat"
    ):
        source.read(4)
    with pytest.raises(SourceError, match="no longer exists"):
        list(source.read_many([4]))
    assert source.read(1) == png(seed=1)


@pytest.mark.parametrize("kind", ONE_BY_ONE, indirect=True)
def test_many_are_read_in_the_order_asked_for_and_errors_are_given_not_raised(source: Source, png, tmp_path: Path):
    for path in (*tmp_path.glob("photos/dog/b.png"), *tmp_path.glob("part-1.tar*")):
        path.unlink()
    first, gone, second = source.read_many([1, 4, 0])
    assert (first, second) == (png(seed=1), png(seed=0))
    assert isinstance(gone, ImageError) and (gone.stage, str(gone)) == ("read", "No such file or directory")
    assert not source.is_remote


def test_the_index_holds_what_the_scan_found(source: Source):
    entries = list(source.entries())
    assert [entry.key for entry in entries] == source.keys(range(5))
    assert [(entry.size_bytes, entry.label) for entry in entries] == [
        (source.size_bytes(row), source.label(row)) for row in range(5)
    ]


def test_the_fingerprint_does_not_know_where_the_folder_lies(make_folder: MakeFolder, png, tmp_path: Path):
    folder = make_folder({"a.png": png()})
    before = open_source(str(folder), tmp_path / "index").fingerprint
    moved = folder.rename(tmp_path / "moved")
    assert open_source(str(moved), tmp_path / "index").fingerprint == before


def test_the_fingerprint_sees_another_name_and_another_size(make_folder: MakeFolder, png, tmp_path: Path):
    folder = make_folder({"a.png": png()})
    before = open_source(str(folder), tmp_path / "index").fingerprint
    (folder / "a.png").rename(folder / "b.png")
    renamed = open_source(str(folder), tmp_path / "index").fingerprint
    (folder / "b.png").write_bytes(png() + b"\0")
    assert len({before, renamed, open_source(str(folder), tmp_path / "index").fingerprint}) == 3


@pytest.mark.parametrize(
    ("uri", "error", "sentence"),
    [
        (
            "nowhere",
            NotFoundError,
            r"nowhere does not exist; give tar shards \(.tar, .tar.gz, .tgz, .tar.zst\), an image list "
            r"\(.txt, .csv, .tsv, .jsonl\), Parquet files \(.parquet\), a dataset of the Hugging Face Hub "
            r"\(hf://datasets/ORG/NAME\), a folder written by save_to_disk or a folder of images$",
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
            r"\(.txt, .csv, .tsv, .jsonl\), Parquet files \(.parquet\), a dataset of the Hugging Face Hub "
            r"\(hf://datasets/ORG/NAME\), a folder written by save_to_disk or a folder of images$",
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
