"""`--update-metadata` on a store of buckets: the labels and captions of all of them change, or none."""

import shutil
from pathlib import Path

import pytest

from tcae_cli.errors import StoreError
from tcae_cli.jobs import encode_shards
from tcae_cli.jobs.update_metadata import update_store
from tcae_cli.jobs.verify import verify_store
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.store import VerifyRequest
from tcae_cli.store.dataset import LatentDataset

from ..store_contents import arrays_of, assert_same_arrays, attributes_of, files_of, open_plainly
from ..tables import table
from .conftest import Killed

SETTING = {"sizes": (128,), "buckets": True, "bucket_step": 32, "batch_size": 16}
NEW_CLASS = 5  # rows between those that get a class of their own


def update(source: Path, store: Path):
    return update_store(EncodeRequest(source=str(source), store=str(store), update_metadata=True), Silent())


def problems(source: Path, store: Path) -> list[str]:
    return verify_store(VerifyRequest(store=str(store), source=str(source), num_rows=0), Silent()).problems


def write_list(folder: Path, corrected: bool) -> Path:
    """A list of the images in a folder, with their class folders as labels and, where it is corrected, captions."""
    keys = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.jpg"))]
    rows = [
        (key, "new" if corrected and row % NEW_CLASS == 0 else key.partition("/")[0], f"of {row}" if corrected else "")
        for row, key in enumerate(keys)
    ]
    (folder / "list.csv").write_text(table(["image", "label", "caption"], rows, "csv"))
    return folder / "list.csv"


@pytest.fixture
def listed(shaped_photos, tmp_path, encode) -> tuple[Path, Path]:
    """A list of photographs of six shapes, and their store without captions."""
    source = write_list(shutil.copytree(shaped_photos, tmp_path / "photos"), corrected=False)
    encode(source, tmp_path / "store.zarr", **SETTING)
    return source, tmp_path / "store.zarr"


def described(store: Path) -> dict[str, tuple[str, str]]:
    """The class and the caption of every image, by its key."""
    dataset = LatentDataset(store, fields=("key", "class_name", "caption"))
    batches = dataset.batches([list(bucket.samples) for bucket in dataset.buckets])
    values = [zip(batch["key"], batch["class_name"], batch["caption"], strict=True) for batch in batches]
    return {key: (name, caption) for each in values for key, name, caption in each}


def test_an_update_makes_the_store_that_would_have_been_encoded(listed, encode, tmp_path, monkeypatch):
    source, store = listed
    latents = {name: each.tobytes() for name, each in arrays_of(store).items() if name.endswith("latents")}
    write_list(source.parent, corrected=True)
    [problem] = problems(source, store)
    assert "48 images have another label or caption than in the store" in problem
    with monkeypatch.context() as patch:
        patch.delattr(encode_shards, "load_runner")  # no model is loaded
        report = update(source, store)
    assert (report.num_labels, report.num_captions, report.num_classes, report.updated) == (10, 48, 4, True)

    names = tmp_path / "names.txt"
    names.write_text("\n".join(attributes_of(store)["source"]["class_names"]))
    encode(source, tmp_path / "fresh.zarr", classes=str(names), **SETTING)
    assert_same_arrays(store, tmp_path / "fresh.zarr")
    assert {name: each.tobytes() for name, each in arrays_of(store).items() if name in latents} == latents
    assert open_plainly(store)["buckets/128x128/captions"][:].tolist()[0] in {f"of {row}" for row in range(48)}
    assert problems(source, store) == [] and encode(source, store, **SETTING).num_encoded_now == 0
    before = files_of(store)
    assert not update(source, store).updated and files_of(store) == before


def test_what_is_appended_later_and_updated_again_is_right(listed, encode, shaped_photos):
    source, store = listed
    write_list(source.parent, corrected=True)
    update(source, store)
    for number in range(3):
        shutil.copy(sorted(shaped_photos.rglob("*.jpg"))[number], source.parent / f"thing/z{number}.jpg")
    write_list(source.parent, corrected=True)
    assert encode(source, store, append=True, **SETTING).num_encoded_now == 3
    assert problems(source, store) == []
    write_list(source.parent, corrected=False)
    assert update(source, store).num_captions == 51
    assert problems(source, store) == [] and set(described(store).values()) == {
        ("animal", ""),
        ("person", ""),
        ("thing", ""),
    }


def test_an_update_that_is_killed_anywhere_changes_all_buckets_or_none(listed, encode, die_after):
    source, store = listed
    old = described(store)
    write_list(source.parent, corrected=True)
    new = {}
    interrupted = 0
    for count in range(0, 300, 3):
        cut = shutil.copytree(store, store.with_name(f"{count}.zarr"))
        die_after(count)
        try:
            update(source, cut)
            break
        except Killed:
            die_after(None)
        try:
            found = described(cut)
        except StoreError as error:  # killed between the root and its last bucket
            assert "are being updated, or that was interrupted; open it again, or repeat tcae enc" in str(error)
            interrupted += 1
            if interrupted % 3 == 1:
                assert any("whose update was interrupted" in each for each in problems(source, cut))
                assert encode(source, cut, **SETTING).num_encoded_now == 0  # which completes it
                new = described(cut)
                assert problems(source, cut) == [] and all(caption for _, caption in new.values())
        else:
            assert found in (old, new), count
    assert interrupted > 2 and problems(source, cut) == [] and described(cut) == new


def test_a_bucket_alone_is_not_written(listed, tcae):
    source, store = listed
    for option in ("--update-metadata", "--append", "--dry-run"):
        code, _, said = tcae("encode-dataset", source, store / "buckets/128x128", option)
        assert code == 2 and f"128x128 is a bucket of {store}; name {store}" in said.replace("\n", " ")
