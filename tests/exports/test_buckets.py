"""The export of a store of buckets: an export of each bucket, in a folder that has the bucket's name."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tcae_cli.errors import UsageError
from tcae_cli.store.reader import LatentStore

from ..store_contents import attributes_of
from .conftest import files_of

NAMES = ["96x160", "128x128", "160x96"]


@pytest.fixture(scope="module")
def bucketed(shaped_photos, encode, tmp_path_factory) -> Path:
    store = tmp_path_factory.mktemp("buckets") / "out.zarr"
    encode(shaped_photos, store, sizes=(128,), buckets=True, bucket_step=32, batch_size=4)
    return store


def bucket_of(store: Path, name: str) -> LatentStore:
    return LatentStore(store / "buckets" / name)


def test_npy_has_an_array_for_each_bucket(bucketed, export):
    out = export("out", "npy", of=bucketed)
    assert (out.report.num_rows, out.report.num_not_ok, out.report.num_written_now) == (48, 0, 48)
    for name in NAMES:
        store = bucket_of(bucketed, name)
        assert np.array_equal(np.load(out.target / name / "latents.npy"), store.latents(range(len(store))))
        assert json.loads((out.target / name / "index.json").read_text())["keys"] == store.keys(range(len(store)))


def test_the_folder_states_what_all_buckets_hold(bucketed, export):
    out = export("out", "npy", of=bucketed)
    about = json.loads((out.target / "tcae_export.json").read_text())
    assert about["complete"] and about["num_rows"] == 48 and about["buckets"] == NAMES
    assert about["statistics"] == attributes_of(bucketed)["statistics"]["latents"] | {"of": "raw"}


def test_all_buckets_of_a_webdataset_have_one_scale_and_say_their_shape(bucketed, export):
    out = export("out", "webdataset", of=bucketed)
    std = attributes_of(bucketed)["statistics"]["latents"]["std"]
    assert out.report.scale == pytest.approx(1 / std)
    for name in NAMES:
        folder, store = out.target / name, bucket_of(bucketed, name)
        shards = json.loads((folder / "wids-meta.json").read_text())["shardlist"]
        assert sum(shard["nsamples"] for shard in shards) == len(store)
        with tarfile.open(folder / shards[0]["url"]) as tar:
            about = json.load(tar.extractfile("00000000.json"))
            latents = np.load(io.BytesIO(tar.extractfile("00000000.npy").read()))
        assert f"{about['height']}x{about['width']}" == name
        assert latents == pytest.approx(store.latents(0).astype(np.float32) / std, rel=1e-5)


def test_mds_names_the_shape_of_each_bucket(bucketed, export):
    out = export("out", "mds", of=bucketed)
    for name, shape in zip(NAMES, [(8, 3, 5), (8, 4, 4), (8, 5, 3)], strict=True):
        assert f"{name}: latents_128 holds float16 of shape {shape}, which the loader has to know" in out.report.notes
        assert len(json.loads((out.target / name / "index.json").read_text())["shards"]) > 1
    assert len(out.report.notes) == 4


def test_a_repeated_export_of_buckets_writes_what_is_missing(bucketed, export):
    out = export("out", "webdataset", of=bucketed)
    before = files_of(out.target)
    lost = next((out.target / "96x160").glob("*.tar"))
    lost.unlink()
    again = export("out", "webdataset", of=bucketed)
    assert 0 < again.report.num_written_now < 16 and files_of(out.target) == before
    assert export("out", "webdataset", of=bucketed).report.num_written_now == 0


def test_buckets_are_not_exported_into_something_else(bucketed, store, export, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").touch()
    with pytest.raises(UsageError, match="exists, is not an export of latents and is not empty; name another path"):
        export("out", "npy", of=bucketed)
    export("square", "npy", of=store)
    with pytest.raises(UsageError, match="square holds another export"):
        export("square", "npy", of=bucketed)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_one_bucket_is_exported_as_the_store_it_is(bucketed, export):
    out = export("out", "edm2", of=bucket_of(bucketed, "96x160"))
    assert out.report.num_rows == 16
