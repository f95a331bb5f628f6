"""As LightningDiT's loader reads: sorted safetensors, one of two keys, statistics beside them."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tcae_cli.errors import UsageError
from tcae_cli.store.reader import LatentStore


def read_as_lightningdit(folder, key):
    """Normalised latents and labels, in the loader's order of files."""
    latents, labels = [], []
    statistics = torch.load(folder / "latents_stats.pt")
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt", device="cpu") as file:
            for index in range(file.get_slice("labels").get_shape()[0]):
                feature = file.get_slice(key)[index : index + 1]
                latents.append(((feature - statistics["mean"]) / statistics["std"]).squeeze(0))
                labels.append(file.get_slice("labels")[index : index + 1].squeeze(0))
    return torch.stack(latents), torch.stack(labels), statistics


@pytest.mark.parametrize("view", ["latents", "latents_flip"])
def test_the_loader_gets_normalised_latents_and_labels_in_row_order(export, store, view):
    done = export("out", "lightningdit")

    latents, labels, statistics = read_as_lightningdit(done.target, view)

    assert len(list(done.target.glob("*.safetensors"))) == 12  # two rows a file
    assert latents.shape == (23, 8, 2, 2) and latents.dtype == torch.float32
    assert labels.dtype == torch.int64 and labels.tolist() == [0] * 7 + [1] * 8 + [2] * 8
    assert [tuple(statistics[name].shape) for name in ("mean", "std")] == [(1, 8, 1, 1)] * 2
    raw = LatentStore(store.folder.uri, view).latents(store.ok_rows)
    np.testing.assert_allclose(latents, store.normalise(raw), rtol=1e-5, atol=1e-5)


def test_both_views_round_trip_exactly(export, store):
    folder = export("out", "lightningdit").target
    for view in ("latents", "latents_flip"):
        parts = []
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="np") as file:
                parts.append(file.get_tensor(view))
        assert np.array_equal(np.concatenate(parts), LatentStore(store.folder.uri, view).latents(store.ok_rows))


def test_a_store_without_mirrored_latents_is_refused(export, int8_store, tmp_path):
    with pytest.raises(UsageError, match=r"has no view latents_flip; encode into another store with --flip"):
        export("out", "lightningdit", of=int8_store)
    assert not (tmp_path / "out").exists()


def test_a_view_that_is_itself_mirrored_is_refused_with_the_plain_one(export, tmp_path):
    with pytest.raises(UsageError, match=r"latents_flip of .* is itself mirrored; name the plain one, latents$"):
        export("out", "lightningdit", view="latents_flip")
    assert not (tmp_path / "out").exists()
