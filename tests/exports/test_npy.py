"""One memory-mapped array, and an index of its rows."""

import json

import numpy as np
import pytest


@pytest.mark.parametrize(("name", "dtype"), [("store", np.float16), ("int8_store", np.float32)])
def test_the_array_is_the_stores_and_the_index_has_its_rows(request, export, name, dtype):
    store = request.getfixturevalue(name)
    done = export("out", "npy", of=store)

    latents = np.load(done.target / "latents.npy", mmap_mode="r")
    index = json.loads((done.target / "index.json").read_bytes())

    assert latents.shape == (23, 8, 2, 2) and latents.dtype == dtype
    assert np.array_equal(latents, store.latents(store.ok_rows))
    assert index["keys"] == store.keys(store.ok_rows)
    assert index["labels"] == [0] * 7 + [1] * 8 + [2] * 8
    assert index["class_names"] == ["animal", "person", "thing"]
    assert index["captions"] == store.captions(store.ok_rows) and index["captions"][0] == "animal \N{SNOWMAN} 0"
    mean, std = (np.array(index["statistics"][f"channel_{of}"])[:, None, None] for of in ("mean", "std"))
    normal = (latents - mean) / std
    assert np.abs(normal.mean((0, 2, 3))).max() < 1e-3 and np.abs(normal.std((0, 2, 3)) - 1).max() < 1e-3


def test_another_view_is_exported_by_name(export, store):
    mirrored = np.load(export("out", "npy", view="latents_flip").target / "latents.npy")
    assert not np.array_equal(mirrored, store.latents(store.ok_rows))
    assert mirrored.shape == (23, 8, 2, 2)


def test_rows_without_a_class_are_minus_one(unlabelled_store, export):
    index = json.loads((export("out", "npy", of=unlabelled_store).target / "index.json").read_bytes())
    assert set(index["labels"]) == {-1} and index["captions"] is None
