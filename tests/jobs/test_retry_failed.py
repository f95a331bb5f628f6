"""`--retry-failed`: what failed is tried again, once it is put right, and nothing else is touched."""

import shutil
from pathlib import Path

import pytest

from tcae_cli.errors import SourceError, StoreError
from tcae_cli.images import batch as image_batch
from tcae_cli.jobs import encode_shards

from ..store_contents import assert_rows_equal, assert_same_store, failures_of

BROKEN = {"animal/3.jpg": 3, "animal/6.jpg": 6, "thing/1.jpg": 17}  # name -> row; in both shards


@pytest.fixture
def broken(photos: Path, tmp_path: Path) -> Path:
    """The photographs, three of them cut short."""
    source = shutil.copytree(photos, tmp_path / "photos")
    for name in BROKEN:
        (source / name).write_bytes((photos / name).read_bytes()[:700])
    return source


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What this process has decoded."""
    files: list[bytes] = []
    decode = image_batch.decode_scaled
    monkeypatch.setattr(image_batch, "decode_scaled", lambda data, least: (files.append(data), decode(data, least))[1])
    return files


def test_failed_rows_are_tried_again_once_they_are_put_right_and_no_others(photos, broken, tmp_path, encode, decoded):
    encode(broken, tmp_path / "store.zarr")
    decoded.clear()
    for name in BROKEN:
        shutil.copy(photos / name, broken / name)
    report = encode(broken, tmp_path / "store.zarr", retry_failed=True)

    assert (report.num_encoded_now, report.num_ok, report.num_failed, report.exit_code) == (3, 24, 0, 0)
    assert decoded == [(photos / name).read_bytes() for name in BROKEN]
    encode(broken, tmp_path / "fresh.zarr")
    assert_same_store(tmp_path / "store.zarr", tmp_path / "fresh.zarr")
    assert encode(broken, tmp_path / "store.zarr").num_encoded_now == 0  # and it goes on being a store of this source


def test_rows_that_fail_again_are_failed_still_and_the_rest_is_as_it_was(broken, tmp_path, encode, decoded):
    encode(broken, tmp_path / "store.zarr")
    shutil.copytree(tmp_path / "store.zarr", tmp_path / "before.zarr")
    decoded.clear()
    report = encode(broken, tmp_path / "store.zarr", retry_failed=True)

    assert (report.num_encoded_now, report.num_failed, report.exit_code) == (3, 3, 3)
    assert len(decoded) == 3
    assert_same_store(tmp_path / "store.zarr", tmp_path / "before.zarr")


def test_of_three_put_one_right_and_two_stay_failed(photos, broken, tmp_path, encode):
    encode(broken, tmp_path / "store.zarr")
    shutil.copy(photos / "animal/6.jpg", broken / "animal/6.jpg")
    encode(broken, tmp_path / "store.zarr", retry_failed=True)

    assert [(row, path) for row, path, _, _ in failures_of(tmp_path / "store.zarr")] == [
        (3, "animal/3.jpg"),
        (17, "thing/1.jpg"),
    ]
    encode(photos, tmp_path / "whole.zarr")
    assert_rows_equal(tmp_path / "store.zarr", tmp_path / "whole.zarr", [r for r in range(24) if r not in (3, 17)])


def test_a_failed_image_put_right_is_named_with_the_way_to_encode_it(photos, broken, tmp_path, encode):
    encode(broken, tmp_path / "store.zarr")
    shutil.copy(photos / "animal/6.jpg", broken / "animal/6.jpg")

    with pytest.raises(StoreError, match=r"1 changed \(animal/6\.jpg .*; put .* back .*, or .* --retry-failed to enc"):
        encode(broken, tmp_path / "store.zarr")


def test_an_image_that_is_in_the_store_may_not_change_when_others_are_tried_again(photos, broken, tmp_path, encode):
    encode(broken, tmp_path / "store.zarr")
    shutil.copy(photos / "animal/6.jpg", broken / "animal/6.jpg")
    shutil.copy(photos / "animal/0.jpg", broken / "animal/1.jpg")

    with pytest.raises(StoreError, match=r": 1 changed \(animal/1\.jpg \(.*\)\); put them back as they were"):
        encode(broken, tmp_path / "store.zarr", retry_failed=True)


def test_a_source_put_right_after_most_of_it_failed_is_retried_as_advised(photos, tmp_path, encode, monkeypatch):
    monkeypatch.setattr(encode_shards, "_EARLY_ROWS", 8)
    source = shutil.copytree(photos, tmp_path / "photos")
    for path in source.rglob("*.jpg"):
        path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(
        SourceError, match=r"put the source right and repeat with --retry-failed, or allow this with --m"
    ):
        encode(source, tmp_path / "store.zarr")

    shutil.copytree(photos, source, dirs_exist_ok=True)
    report = encode(source, tmp_path / "store.zarr", retry_failed=True)
    assert (report.num_ok, report.num_failed, report.exit_code) == (24, 0, 0)
    encode(source, tmp_path / "fresh.zarr")
    assert_same_store(tmp_path / "store.zarr", tmp_path / "fresh.zarr")
