"""tcae encode-dataset --min-size: small images have no latents, and are no failures."""

import json
import shutil

import pytest
from PIL import Image

from tcae_cli.errors import StoreError
from tcae_cli.store.dataset import LatentDataset

from ..store_contents import attributes_of, failures_of

SIZES = {"a": (100, 70), "b": (64, 64), "c": (63, 200), "d": (400, 40)}  # width and height


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in SIZES.items():
        Image.effect_noise(size, 64).convert("RGB").save(folder / f"{name}.png")
    return folder


def test_small_images_are_rows_without_latents_that_count_as_no_failures(source, encode, tmp_path):
    report = encode(source, tmp_path / "store.zarr", min_size=64, max_failures="0")
    assert (report.num_ok, report.num_failed, report.num_too_small, report.exit_code) == (2, 0, 2, 0)
    assert failures_of(tmp_path / "store.zarr") == [
        (2, "c.png", "too small", "200 x 63 pixels, where --min-size asks for 64 on each side"),
        (3, "d.png", "too small", "40 x 400 pixels, where --min-size asks for 64 on each side"),
    ]
    assert attributes_of(tmp_path / "store.zarr")["transform"]["min_size"] == 64
    retried = encode(source, tmp_path / "store.zarr", min_size=64, retry_failed=True)
    assert (retried.num_encoded_now, retried.num_too_small) == (0, 2)


def test_they_are_listed_apart(source, encode, tcae, small_checkpoint, tmp_path):
    store = tmp_path / "store.zarr"
    code, printed, _ = tcae("encode-dataset", source, store, "--min-size", 64, "--model", small_checkpoint)
    sentence = "2 of the rows are of images smaller than --min-size, and have no latents"
    assert code == 0 and "2 rows ok, 0 failed" in printed and sentence in printed.replace("\n", " ")
    for command in ("info", "verify"):
        code, printed, _ = tcae(command, store, *(["--rows", "0"] if command == "verify" else []))
        assert code == 0 and sentence in printed.replace("\n", " ")
        report = json.loads(tcae(command, store, "--json", *(["--rows", "0"] if command == "verify" else []))[1])
        assert report["num_too_small"] == 2


def test_buckets_leave_small_images_out_too(source, encode, tmp_path):
    report = encode(source, tmp_path / "store.zarr", min_size=64, sizes=(128,), buckets=True, bucket_step=32)
    assert (report.num_ok, report.num_failed, report.num_too_small, report.exit_code) == (2, 0, 2, 0)


@pytest.mark.parametrize("options", [{}, {"sizes": (128,), "buckets": True, "bucket_step": 32}])
def test_a_store_of_small_images_alone_is_complete_and_says_why_it_is_empty(source, encode, tmp_path, options):
    assert encode(source, tmp_path / "store.zarr", min_size=10_000, **options).num_too_small == 4
    with pytest.raises(StoreError, match="has no good row: all 4 failed or are smaller than --min-size; tcae info"):
        LatentDataset(tmp_path / "store.zarr")


def test_the_least_size_of_a_store_stays(source, encode, tmp_path):
    encode(source, tmp_path / "store.zarr", min_size=64)
    for asked in (None, 32):
        with pytest.raises(StoreError, match=f"--min-size 64, not {asked or 'none'}; repeat the command it was made"):
            encode(source, tmp_path / "store.zarr", min_size=asked)
    shutil.rmtree(tmp_path / "store.zarr")
    encode(source, tmp_path / "store.zarr")
    assert "min_size" not in attributes_of(tmp_path / "store.zarr")["transform"]
