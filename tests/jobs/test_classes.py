"""`--classes`: a store's class numbers are those of a list or of another store."""

import shutil

import pytest

from tcae_cli.errors import SourceError, StoreError
from tcae_cli.jobs.verify import verify_store
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.store import VerifyRequest
from tcae_cli.store.reader import LatentStore

from ..store_contents import refused


@pytest.fixture
def validation(photos, tmp_path, encode):
    """A folder of six photographs of two of the three classes, and its store, numbered as the training store is."""
    encode(photos, tmp_path / "train.zarr")
    source = tmp_path / "val"
    for name in ("person", "thing"):
        shutil.copytree(photos / name, source / name, ignore=shutil.ignore_patterns("[3-7].jpg"))
    encode(source, tmp_path / "val.zarr", classes=str(tmp_path / "train.zarr"))
    return source, tmp_path / "val.zarr"


def test_a_store_that_lacks_a_class_has_the_numbers_of_the_other_store(validation):
    source, path = validation
    store = LatentStore(path)
    assert store.spec.source.class_names == ["animal", "person", "thing"]
    assert store.labels().tolist() == [1, 1, 1, 2, 2, 2]
    request = VerifyRequest(store=str(path), source=str(source), num_rows=0)
    assert verify_store(request, Silent()).problems == []


def test_resuming_and_appending_continue_with_the_list(validation, encode, photos):
    source, path = validation
    assert encode(source, path).num_encoded_now == 0
    shutil.copytree(photos / "animal", source / "animal", ignore=shutil.ignore_patterns("[2-7].jpg"))
    assert encode(source, path, append=True).num_encoded_now == 2
    assert LatentStore(path).labels().tolist() == [1, 1, 1, 2, 2, 2, 0, 0]


def test_a_class_beyond_the_list_is_refused_until_the_list_has_it(validation, encode, photos, tmp_path):
    source, path = validation
    shutil.copytree(photos / "animal", source / "zebra", ignore=shutil.ignore_patterns("[2-7].jpg"))
    with pytest.raises(SourceError, match="of its classes 1 are not among the 3 of --classes: zebra; give a list that"):
        encode(source, path, append=True)

    (tmp_path / "longer.txt").write_text("animal\nperson\nthing\nzebra\n")
    assert encode(source, path, append=True, classes=str(tmp_path / "longer.txt")).num_encoded_now == 2
    store = LatentStore(path)
    assert store.spec.source.class_names == ["animal", "person", "thing", "zebra"]
    assert store.labels().tolist() == [1, 1, 1, 2, 2, 2, 3, 3]
    assert encode(source, path).num_encoded_now == 0


def test_another_list_than_the_stores_is_refused(validation, encode, tmp_path):
    source, path = validation
    (tmp_path / "other.json").write_text('["thing", "person"]')
    for append in (False, True):
        said = refused(encode, source, path, classes=str(tmp_path / "other.json"), append=append)
        assert "val.zarr numbers 3 classes (animal, person, thing), and " in said
        assert "other.json 2 classes (thing, person); omit --classes to continue with the store's, or pass --u" in said


def test_a_store_without_class_names_cannot_number_another(photos, make_folder, encode, png, tmp_path):
    encode(make_folder({"1.png": png(64, 64)}), tmp_path / "bare.zarr")
    with pytest.raises(StoreError, match=r"bare\.zarr has no class names, only numbers or no labels; omit --classes"):
        encode(photos, tmp_path / "store.zarr", classes=str(tmp_path / "bare.zarr"))
