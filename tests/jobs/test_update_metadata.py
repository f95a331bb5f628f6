"""`--update-metadata`: labels and captions are those of the source again, and no image is encoded."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tcae_cli.errors import SourceError, StoreError
from tcae_cli.jobs import encode_shards
from tcae_cli.jobs.update_metadata import update_store
from tcae_cli.jobs.verify import verify_store
from tcae_cli.reports.encode import EncodeRequest, UpdateReport
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.store import VerifyRequest
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.store.lease import Place, join_store
from tcae_cli.store.reader import LatentStore

from ..heard import Heard
from ..pictures import write_tar
from ..store_contents import assert_same_arrays, files_of
from ..tables import table, with_paths, write_parquet


def update(source: Path, store: Path, progress=None, **options) -> UpdateReport:
    request = EncodeRequest(source=str(source), store=str(store), update_metadata=True, **options)
    return update_store(request, progress or Silent())


def problems(source: Path, store: Path) -> list[str]:
    return verify_store(VerifyRequest(store=str(store), source=str(source), num_rows=0), Silent()).problems


def write_list(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    """A list of images, each with a label and a caption."""
    path.write_text(table(["image", "label", "caption"], rows, "csv"))
    return path


ROWS = [("animal/0.jpg", "cat", "one"), ("person/0.jpg", "dog", "two"), ("thing/0.jpg", "dog", "")]


@pytest.fixture
def described(photos, tmp_path, encode) -> tuple[Path, Path]:
    """A list of three photographs with labels and captions, and their store."""
    for name, *_ in ROWS:
        (tmp_path / name).parent.mkdir()
        shutil.copy(photos / name, tmp_path / name)
    source = write_list(tmp_path / "list.csv", ROWS)
    encode(source, tmp_path / "store.zarr")
    return source, tmp_path / "store.zarr"


def correct(source: Path) -> None:
    """The first row gets another caption, the second a class of its own, the third a caption."""
    write_list(source, [(ROWS[0][0], "cat", "uno"), (ROWS[1][0], "cow", "two"), (ROWS[2][0], "dog", "three")])


def test_what_was_corrected_is_reported_and_kept_until_it_is_updated(described, encode):
    source, path = described
    correct(source)
    heard = Heard()
    assert encode(source, path, heard).num_encoded_now == 0
    words = (
        f"{source}: 3 images have another label or caption than in the store (animal/0.jpg (another caption), "
        f"person/0.jpg (label 2, was 1), thing/0.jpg (caption added)); "
        f"tcae encode-dataset --update-metadata brings them up to date without encoding"
    )
    assert f"{words}; the rows keep those of the store" in heard.said
    assert LatentStore(path).labels().tolist() == [0, 1, 1]
    assert problems(source, path) == [words]


def test_an_update_makes_the_store_that_would_have_been_encoded(described, tmp_path, encode, monkeypatch):
    source, path = described
    correct(source)
    monkeypatch.delattr(encode_shards, "load_runner")  # no model is loaded
    report = update(source, path)
    assert (report.num_labels, report.num_captions, report.num_classes, report.updated) == (1, 2, 3, True)
    store = LatentStore(path)
    assert store.complete and store.spec.source.class_names == ["cat", "dog", "cow"]  # the others keep their numbers
    assert store.labels().tolist() == [0, 2, 1] and store.captions([0, 1, 2]) == ["uno", "two", "three"]
    assert problems(source, path) == []

    monkeypatch.undo()
    (tmp_path / "names.txt").write_text("cat\ndog\ncow\n")
    encode(source, tmp_path / "fresh.zarr", classes=str(tmp_path / "names.txt"))
    assert_same_arrays(path, tmp_path / "fresh.zarr")
    assert encode(source, path).num_encoded_now == 0
    before = files_of(path)
    assert not update(source, path).updated and files_of(path) == before


def test_captions_are_added_to_a_store_that_had_none(photos, tmp_path, encode):
    source = shutil.copytree(photos, tmp_path / "photos")
    encode(source, tmp_path / "store.zarr")
    for image in source.rglob("*.jpg"):
        image.with_suffix(".txt").write_text(f"number {image.stem}")
    shutil.copy(source / "animal/0.jpg", source / "animal/8.jpg")
    (source / "animal/8.txt").write_text("number 8")
    heard = Heard()
    encode(source, tmp_path / "store.zarr", heard, append=True)
    assert any(
        "was made without captions, and those of new images are not stored; tcae enc" in line for line in heard.said
    )

    assert update(source, tmp_path / "store.zarr").num_captions == 25
    store = LatentStore(tmp_path / "store.zarr")
    assert store.captions([0, 23, 24]) == ["number 0", "number 7", "number 8"]
    assert problems(source, tmp_path / "store.zarr") == []


def test_resumed_and_retried_rows_have_what_was_updated(described, photos, tmp_path, encode):
    source, path = described
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"none")
    write_list(source, [*ROWS, (broken.name, "dog", "four")])
    encode(source, path, append=True, max_failures="100%")
    write_list(source, [*ROWS[:2], (ROWS[2][0], "cat", "3"), (broken.name, "cat", "4")])
    update(source, path)
    shutil.copy(photos / ROWS[0][0], broken)
    assert encode(source, path, retry_failed=True).num_encoded_now == 1
    store = LatentStore(path)
    assert store.labels().tolist() == [0, 1, 0, 0] and store.captions([2, 3]) == ["3", "4"]
    assert store.ok_rows.tolist() == [0, 1, 2, 3] and problems(source, path) == []


def test_labels_are_numbered_anew_by_a_list(described, tmp_path, encode):
    source, path = described
    (tmp_path / "names.json").write_text(json.dumps(["bird", "dog", "cat"]))
    report = update(source, path, classes=str(tmp_path / "names.json"))
    assert (report.num_labels, report.num_captions, report.num_classes) == (3 - 2, 0, 3)
    store = LatentStore(path)
    assert store.labels().tolist() == [2, 1, 1] and store.spec.source.class_names == ["bird", "dog", "cat"]
    assert encode(source, path).num_encoded_now == 0 and problems(source, path) == []
    with pytest.raises(SourceError, match="of its classes 1 are not among the 2 of --classes: cat; give a list that"):
        (tmp_path / "names.json").write_text(json.dumps(["bird", "dog"]))
        update(source, path, classes=str(tmp_path / "names.json"))


def test_a_tar_that_was_written_again_with_other_labels(photos, tmp_path, encode):
    images = {f"{number}.jpg": (photos / "animal" / f"{number}.jpg").read_bytes() for number in range(3)}
    store, tar = tmp_path / "store.zarr", write_tar(tmp_path / "s.tar", images | {"0.cls": b"1"})
    encode(tar, store)
    write_tar(tar, {"readme.md": b"first"} | images | {"0.cls": b"9", "1.cls": b"2"})
    with pytest.raises(StoreError, match="moved in its file"):
        encode(tar, store)
    assert update(tar, store).num_labels == 2
    assert LatentStore(store).labels().tolist() == [9, 2, -1]
    assert problems(tar, store) == [] and encode(tar, store).num_encoded_now == 0

    before = files_of(store)
    write_tar(tar, images | {"1.jpg": bytes(len(images["1.jpg"]))})
    with pytest.raises(
        StoreError, match=r"1 images have other bytes than when they were encoded \(the first is s\.tar/1"
    ):
        update(tar, store)
    assert files_of(store) == before


def test_a_table_that_was_written_again_with_other_captions(photos, tmp_path, encode):
    images = with_paths({path.name: path.read_bytes() for path in sorted(photos.glob("animal/*.jpg"))[:3]})
    write_parquet(tmp_path / "t.parquet", {"image": images, "text": ["a", "b", "c"]})
    encode(tmp_path / "t.parquet", tmp_path / "store.zarr")
    write_parquet(
        tmp_path / "t.parquet", {"image": images, "text": ["a", "b", "a much longer caption"]}, rows_per_group=2
    )
    assert update(tmp_path / "t.parquet", tmp_path / "store.zarr").num_captions == 1
    assert LatentStore(tmp_path / "store.zarr").captions([1, 2]) == ["b", "a much longer caption"]
    assert problems(tmp_path / "t.parquet", tmp_path / "store.zarr") == []


def test_changed_vanished_and_new_images_are_reported_and_left(photos, tmp_path, encode):
    source = shutil.copytree(photos, tmp_path / "photos")
    encode(source, tmp_path / "store.zarr")
    (source / "animal/0.jpg").write_bytes(b"another")
    (source / "animal/1.jpg").unlink()
    shutil.copy(source / "animal/2.jpg", source / "animal/9.jpg")
    (source / "animal/2.txt").write_text("a cat")
    heard = Heard()
    report = update(source, tmp_path / "store.zarr", heard)
    assert (report.num_captions, report.num_new, report.num_rows) == (1, 1, 24)
    assert "rows of changed and vanished images keep their labels and captions" in heard.said
    assert LatentStore(tmp_path / "store.zarr").labels().tolist() == [0] * 8 + [1] * 8 + [2] * 8
    (tmp_path / "names.txt").write_text("thing\nperson\nanimal\n")
    with pytest.raises(
        SourceError, match="2 images changed, vanished or lost their labels since they were encoded, so these"
    ):
        update(source, tmp_path / "store.zarr", classes=str(tmp_path / "names.txt"))


def test_what_cannot_be_updated_is_refused(described, photos, tmp_path):
    source, path = described
    other = shutil.copytree(photos / "animal", tmp_path / "other")
    with pytest.raises(StoreError, match=r"nowhere\.zarr does not exist; omit --update-metadata to encode it"):
        update(source, tmp_path / "nowhere.zarr")
    with pytest.raises(StoreError, match=r"other holds none of the 3 images .*; name the source it was made from"):
        update(other, path)
    with (
        join_store(LocalFolder(path), Place("another")),
        pytest.raises(StoreError, match=f"is being written by process {os.getpid()} on"),
    ):
        update(source, path)
    shutil.rmtree(path / ".tcae" / "index")
    with pytest.raises(
        StoreError, match=r"has lost \.tcae/index/.*; repeat tcae encode-dataset without --update-metadata"
    ):
        update(source, path)


@pytest.mark.parametrize("option", ["--append", "--retry-failed", "--dry-run", "--num-parts=2"])
def test_options_that_encode_are_refused(described, tcae, option):
    source, path = described
    code, _, said = tcae("encode-dataset", source, path, "--update-metadata", option)
    words = (
        "has no dry run; tcae verify STORE --source" if option == "--dry-run" else f"omit {option.partition('=')[0]}"
    )
    assert code == 2 and words in said


def test_the_command_says_what_it_updated(described, tcae):
    source, path = described
    correct(source)
    _, said, _ = tcae("encode-dataset", source, path, "--update-metadata")
    assert said == f"{path}: 1 labels and 2 captions of 3 rows were updated, 3 classes\n"
    _, said, _ = tcae("encode-dataset", source, path, "--update-metadata")
    assert said == f"{path}: labels and captions are those of the source; nothing to do\n"
