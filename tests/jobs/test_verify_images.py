"""`tcae verify`: latents against the images they were made from, and the picture of both."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tcae_cli.errors import NotFoundError, StoreError, UsageError

from .test_verify import change_bytes, verify, write_latents


@pytest.fixture
def source(photos, tmp_path) -> Path:
    """A copy of the photographs that a test may change."""
    return shutil.copytree(photos, tmp_path / "photos")


@pytest.fixture
def store(source, tmp_path, encode) -> Path:
    """24 rows in 2 shards, of which row 1 has failed."""
    (source / "animal" / "1.jpg").write_bytes(b"not an image")
    encode(source, tmp_path / "store.zarr", max_failures="5%", flip=True)
    return tmp_path / "store.zarr"


def test_new_changed_and_vanished_images_are_named(store, source):
    shutil.copy(source / "thing" / "0.jpg", source / "thing" / "new.jpg")
    (source / "thing" / "2.jpg").unlink()
    with (source / "person" / "3.jpg").open("ab") as file:
        file.write(b"more")
    report = verify(store, source=str(source))

    assert report.num_problems == 3 and report.exit_code == 1
    new, changed, vanished = report.problems
    assert f"{source}: 1 new" in new and "--append adds them (thing/new.jpg)" in new
    assert "1 changed since they were encoded" in changed and "person/3.jpg (" in changed
    assert "1 vanished" in vanished and "(thing/2.jpg)" in vanished
    assert report.num_compared == 22  # not the one that is gone, nor the failed one


def test_an_image_of_the_same_size_with_other_bytes_is_named(store, source):
    path = source / "person" / "3.jpg"
    size = path.stat().st_size
    change_bytes(path, -10)
    assert verify(store, source=str(source)).problems == [
        f"person/3.jpg (row 11) has other bytes than when it was encoded, though as many ({size:,})"
    ]
    assert verify(store).problems == []


def test_latents_of_another_image_are_found_by_decoding(photos, tmp_path, encode):
    encode(photos, tmp_path / "store.zarr", model="tcae-tiny", sizes=(64,))
    rows = list(range(16))
    rows[2], rows[9] = 9, 2
    write_latents(tmp_path / "store.zarr", "latents", 0, rows)
    report = verify(tmp_path / "store.zarr", 24, picture=tmp_path / "picture.png")

    assert len(report.problems) == 2
    assert report.problems[0].startswith("latents: the latents of row 2 are not those of animal/2.jpg: they decode to")
    assert report.problems[1].startswith("latents: the latents of row 9 are not those of person/1.jpg: they decode to")
    assert report.mean_psnr["latents"]["psnr_fresh"] > report.mean_psnr["latents"]["psnr"] + 0.5


def test_the_picture_shows_originals_above_what_latents_decode_to(store, tmp_path, photos):
    report = verify(store, 10, picture=tmp_path / "new" / "seen.png")
    assert report.picture == tmp_path / "new" / "seen.png"
    assert {row["view"] for row in report.sample} == {"latents", "latents_flip"} and len(report.sample) == 20
    with Image.open(report.picture) as picture:
        assert picture.size == (8 * 68 + 4, 4 * 68 + 4)  # two lines of originals, two of reconstructions
        shown = np.array(picture)[4:68, 4:68].astype(int)
    row = report.sample[0]
    with Image.open(photos / row["key"]) as picture:
        original = np.array(picture.resize((85, 64), Image.Resampling.BICUBIC))[:, 10:74].astype(int)
    assert np.abs(shown - original).mean() < 8

    assert verify(store, 10, picture=tmp_path / "new" / "seen.png").picture == tmp_path / "new" / "seen-2.png"


def test_the_picture_is_named_after_the_store_and_lies_here(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert verify("store.zarr", 1).picture == Path("store-verify.png")
    assert (tmp_path / "store-verify.png").is_file()


def test_the_picture_never_becomes_an_image_of_the_source(store, source, tmp_path, monkeypatch):
    monkeypatch.chdir(source / "animal")
    found = verify(str(store), 1)
    assert found.picture == tmp_path / "store-verify.png" and found.picture.is_file()

    inside = Path(shutil.move(store, source / "inside.zarr"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert verify(str(inside), 1).picture == tmp_path / "inside-verify.png"
    shutil.copytree(source, tmp_path / "moved", ignore=shutil.ignore_patterns("*.zarr"))
    monkeypatch.chdir(tmp_path / "moved")
    assert verify(str(inside), 1, source="../moved").picture == tmp_path / "inside-verify-2.png"
    assert not [path for path in tmp_path.rglob("*.png") if path.parent != tmp_path]


def test_a_picture_in_the_source_is_refused_before_anything_is_checked(store, source):
    with pytest.raises(UsageError, match=r"--picture \S+/thing/a\.png lies in \S+/photos, .* name a path elsewhere"):
        verify(str(store), 1, picture=source / "thing" / "a.png")


def test_the_sample_is_the_same_every_time(store, tmp_path):
    first, second = (verify(store, 5, picture=tmp_path / "a.png") for _ in range(2))
    assert first.sample == second.sample and len({row["row"] for row in first.sample}) == 5


def test_images_that_are_gone_are_no_problem_of_the_store(store, source, tmp_path):
    source.rename(tmp_path / "moved")
    report = verify(store, 4)
    assert (report.num_problems, report.sample, report.picture) == (0, [], None)
    assert report.not_checked == [
        "4 of the 4 rows of the sample: their images have changed or are missing; --source says where images are now"
    ]
    found = verify(store, 4, source=str(tmp_path / "moved"), picture=tmp_path / "a.png")
    assert (found.problems, found.not_checked, len(found.sample)) == ([], [], 8)


def test_a_model_that_is_gone_is_no_problem_of_the_store(photos, tmp_path, encode, small_checkpoint):
    model = Path(shutil.copy(small_checkpoint, tmp_path / "model.safetensors"))
    encode(photos, tmp_path / "store.zarr", model=str(model))
    model.unlink()
    report = verify(tmp_path / "store.zarr", 4)
    assert report.exit_code == 0 and report.sample == []
    assert len(report.not_checked) == 1 and f"no model at {model}" in report.not_checked[0]
    with pytest.raises(NotFoundError, match="no model at"):
        verify(tmp_path / "store.zarr", 4, model=str(model))


def test_another_encoder_is_refused(store):
    with pytest.raises(StoreError, match=r"made with encoder \w{12} .* tcae-tiny has \w{12}; pass --model .*--rows 0"):
        verify(store, 4, model="tcae-tiny")


def test_what_is_wrong_with_very_many_rows_is_counted_and_the_first_are_told(many_photos, tmp_path, encode):
    source = shutil.copytree(many_photos, tmp_path / "photos")
    encode(source, tmp_path / "store.zarr")
    for path in source.iterdir():
        change_bytes(path, -10)
    report = verify(tmp_path / "store.zarr", source=str(source))
    assert (report.num_problems, len(report.problems)) == (240, 100)
