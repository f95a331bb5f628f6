"""Statistics have the same bits whoever counted what, and are those of the stored values."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from tcae_cli.store.reader import LatentStore

from ..store_contents import assert_same_store

AXES = {"channel": (0, 2, 3), "position": (0, 1)}


@pytest.fixture(scope="module")
def source(many_photos, tmp_path_factory) -> Path:
    """Links to 90 photographs, five of them cut short: six shards, the last one short."""
    folder = tmp_path_factory.mktemp("source")
    for number, path in enumerate(sorted(many_photos.iterdir())[:90]):
        if number % 20 == 7:
            (folder / path.name).write_bytes(path.read_bytes()[:700])
        else:
            (folder / path.name).symlink_to(path)
    return folder


def statistics_files(store: Path) -> dict[str, bytes]:
    found = (store / "statistics").rglob("*")
    return {str(path.relative_to(store)): path.read_bytes() for path in found if path.is_file()}


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_one_two_and_three_ranks_count_the_same_bits(source, tmp_path, encode, encode_as_ranks, dtype):
    options = {"dtype": dtype, "flip": True, "sizes": (64, 32)}
    encode(source, tmp_path / "1.zarr", max_failures="10%", **options)
    for num_ranks in (2, 3):
        encode_as_ranks(num_ranks, source, tmp_path / f"{num_ranks}.zarr", max_failures="10%", **options)
        assert_same_store(tmp_path / f"{num_ranks}.zarr", tmp_path / "1.zarr")
        assert statistics_files(tmp_path / f"{num_ranks}.zarr") == statistics_files(tmp_path / "1.zarr")
    assert len(statistics_files(tmp_path / "1.zarr")) == 1 + 4 * (1 + 8 * 2)  # groups, and each view's arrays


def test_three_ranks_at_the_same_time_count_the_same_bits(source, tmp_path, encode, start_tcae):
    launch = {"WORLD_SIZE": "3", "TORCHELASTIC_RUN_ID": "mine"}
    ranks = [
        start_tcae(
            source,
            tmp_path / "3.zarr",
            *("--max-failures", "10%", "--workers", "0"),
            environment=launch | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "012"
    ]
    for rank in ranks:
        _, said = rank.communicate(timeout=120)
        assert rank.returncode == 0, said
    encode(source, tmp_path / "1.zarr", max_failures="10%")
    assert statistics_files(tmp_path / "3.zarr") == statistics_files(tmp_path / "1.zarr")
    assert_same_store(tmp_path / "3.zarr", tmp_path / "1.zarr")


def assert_statistics_are_those_of_the_values(path: Path) -> None:
    for view in LatentStore(path).spec.views:
        store = LatentStore(path, view)
        values = store.latents(store.ok_rows).astype(np.float64)
        kept = zarr.open_group(path / "statistics" / view, mode="r")
        assert kept.attrs["num_rows"] == len(store.ok_rows) == store.summaries[view]["num_rows"]
        for name, axes in AXES.items():
            mean, std = values.mean(axes), values.std(axes)
            assert np.abs((kept[f"{name}_mean"][:] - mean) / std).max() < 1e-12
            assert np.abs((kept[f"{name}_std"][:] - std) / std).max() < 1e-12
            assert np.array_equal(kept[f"{name}_min"][:], values.min(axes))
            assert np.array_equal(kept[f"{name}_max"][:], values.max(axes))
        assert abs(store.summaries[view]["mean"] - values.mean()) < 1e-12 * values.std()
        assert abs(store.summaries[view]["std"] - values.std()) < 1e-12 * values.std()


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_they_are_those_of_the_stored_values_in_every_view(source, tmp_path, encode, dtype):
    encode(source, tmp_path / "store.zarr", max_failures="10%", dtype=dtype, flip=True, sizes=(64, 32))
    assert_statistics_are_those_of_the_values(tmp_path / "store.zarr")
    assert LatentStore(tmp_path / "store.zarr").ok_rows.size == 85


def test_after_appending_and_trying_again_they_are_those_of_all_rows(many_photos, source, tmp_path, encode):
    grown = tmp_path / "photos"
    grown.mkdir()
    for path in sorted(source.iterdir()):
        (grown / path.name).write_bytes(path.read_bytes())
    store = tmp_path / "store.zarr"
    encode(grown, store, max_failures="10%", flip=True)
    for path in sorted(many_photos.iterdir())[7:130]:
        (grown / path.name).write_bytes(path.read_bytes())
    report = encode(grown, store, append=True, retry_failed=True, flip=True)
    assert (report.num_encoded_now, report.num_ok, report.num_failed) == (45, 130, 0)
    assert_statistics_are_those_of_the_values(store)
