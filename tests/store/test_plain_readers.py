"""Stores open where people open them: in zarr and xarray, without a warning."""

import json

import numpy as np
import pytest
import xarray
import zarr

from tcae_cli import LatentStore
from tcae_cli.store.settings import make_views

from .conftest import known_latents


@pytest.fixture
def views() -> dict[str, object]:
    """Two sizes, mirrored and not, with captions; the small latents of these tests fit either."""
    found = make_views([64, 96], 32, flip=True)
    return {"views": {name: view.model_copy(update={"height": 2, "width": 3}) for name, view in found.items()}}


@pytest.mark.parametrize("shards", [None, [0]], ids=["complete", "incomplete"])
@pytest.mark.filterwarnings("ignore:.*is not complete")
def test_zarr_lists_a_store_without_a_warning(make_store, views, shards):
    path = make_store(failed={5}, has_captions=True, shards=shards, **views)

    members = dict(zarr.open_group(path, mode="r").members(max_depth=None))
    store = LatentStore(path)
    assert {*store.spec.views, *store.spec.side_arrays} <= members.keys()
    assert str(zarr.open_group(path, mode="r").tree())
    arrays = {name: node for name, node in members.items() if isinstance(node, zarr.Array)}
    assert all(len(array.metadata.dimension_names) == array.ndim for array in arrays.values())


def test_xarray_opens_a_store_without_a_warning(make_store, views):
    path = make_store(failed={5}, has_captions=True, **views)

    dataset, store = xarray.open_zarr(path), LatentStore(path)
    assert set(dataset.variables) == {*store.spec.views, *store.spec.side_arrays}
    assert dataset["latents"].dims == dataset["latents_flip"].dims == ("row", "channel", "height", "width")
    assert dataset["latents_96_flip"].dims == ("row", "channel", "height_96", "width_96")
    assert dataset["crop_96"].dims == ("row", "edge") and dataset["original_size"].dims == ("row", "extent")
    assert np.array_equal(dataset["latents"].values, store.latents(range(40)), equal_nan=True)
    ok = dataset.isel(row=np.flatnonzero(dataset["status"] == 1))
    assert np.array_equal(ok["latents_96"].values, known_latents(40)[store.ok_rows])
    assert ok["captions"].values.tolist() == store.captions(store.ok_rows)

    tree = xarray.open_datatree(path, engine="zarr")
    assert tree["statistics/latents_96/position_mean"].dims == ("height_96", "width_96")
    assert tree["failures/path"].values.tolist() == ["a/5.jpg"]


@pytest.mark.filterwarnings("ignore:Failed to open Zarr store with consolidated metadata:RuntimeWarning")
def test_xarray_opens_a_store_that_is_not_complete(make_store):
    path = make_store(shards=[0])

    assert np.array_equal(xarray.open_zarr(path)["latents"][:16].values, known_latents(40)[:16])


def test_the_root_has_a_copy_of_all_metadata_for_readers_that_cannot_list_folders(make_store, views):
    path = make_store(**views)
    found = {file.parent.relative_to(path).as_posix(): file for file in path.rglob("zarr.json")}
    files = {node: json.loads(file.read_bytes()) for node, file in found.items()}
    root = files.pop(".")
    del files[".tcae"]

    assert root["consolidated_metadata"]["metadata"] == files
