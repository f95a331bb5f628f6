"""Stores that hold the deviations of their latents, and what is drawn from them."""

import itertools

import numpy as np
import pytest
import torch
import zarr
from torch.utils.data import DataLoader

from tcae_cli import LatentDataset, LatentStore, LatentStream
from tcae_cli.errors import UsageError
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.store.buckets import stores_of
from tcae_cli.store.handle import StoreHandle

from .conftest import WITH_POSTERIOR
from .test_dataset import int8_with_flip

NUM_DRAWS = 400
INT8 = int8_with_flip()
INT8["quantisation"] = INT8["quantisation"].model_copy(
    update={
        "scale": INT8["quantisation"].scale | {"latents_std": [0.1, 0.2, 0.3, 0.4], "latents_flip_std": [1, 1, 1, 1]}
    }
)
KINDS = {"float16": {}, "float32": {"dtype": "float32"}, "int8": INT8, "no codec": {"codec": "none"}}


@pytest.fixture(params=KINDS)
def path(make_store, request):
    return make_store(failed={3, 17}, **WITH_POSTERIOR, **KINDS[request.param])


def assert_drawn_from(draws: np.ndarray, mean: np.ndarray, std: np.ndarray) -> None:
    """Within five standard errors, at each place; draws are [draws, ...]."""
    error = std / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - mean) <= 5 * error + 1e-6).all()
    assert (np.abs(draws.var(0, ddof=1) - std**2) <= 5 * std**2 * np.sqrt(2 / (len(draws) - 1)) + 1e-6).all()


def moments_of(path, view="latents") -> tuple[np.ndarray, np.ndarray]:
    store = LatentStore(path, view)
    return tuple(each.latents(store.ok_rows).astype(np.float64) for each in (store, store.deviations()))


@pytest.mark.parametrize("options", [{}, {"in_memory": True}])
def test_a_dataset_draws_from_the_posterior(path, options):
    dataset = LatentDataset(path, normalise="none", sample_posterior=True, **options)
    torch.manual_seed(0)
    draws = np.stack([dataset[range(len(dataset))]["latents"].numpy() for _ in range(NUM_DRAWS)])

    assert draws.dtype == np.float32
    assert_drawn_from(draws, *moments_of(path))


def test_without_it_latents_are_the_mean(path):
    plain = LatentDataset(path, normalise="none")[range(38)]["latents"].numpy()
    np.testing.assert_array_equal(plain, moments_of(path)[0].astype(np.float32))


def test_a_seed_repeats_the_draws_and_every_epoch_has_its_own(path):
    dataset = LatentDataset(path, sample_posterior=True)
    batches = [range(10), range(10, 20), range(20, 38)]

    def epochs(read):
        torch.manual_seed(5)
        return [[batch["latents"] for batch in read()] for _ in range(2)]

    def single():
        return (dataset[row] for row in range(3))

    def together():
        return (dataset[rows] for rows in batches)

    def threads():
        return dataset.batches(batches, num_threads=3)

    def workers():
        return DataLoader(dataset, sampler=batches, batch_size=None, num_workers=2)

    for read in (single, together, threads, workers):
        first, again = epochs(read), epochs(read)
        for one, other in zip(itertools.chain(*first), itertools.chain(*again), strict=True):
            assert torch.equal(one, other)
        assert not any(torch.equal(*pair) for pair in zip(*first, strict=True))
    assert all(map(torch.equal, *(epochs(read)[0] for read in (together, threads))))


def test_the_statistics_are_those_of_what_is_drawn(path):
    mean, std = moments_of(path)
    store, root = LatentStore(path), zarr.open_group(path, mode="r")
    variance = mean.var(axis=(0, 2, 3)) + np.square(std).mean(axis=(0, 2, 3))

    np.testing.assert_allclose(root["statistics/latents/channel_std"][:], np.sqrt(variance), rtol=1e-9)
    np.testing.assert_allclose(root["statistics/latents/channel_mean"][:], mean.mean(axis=(0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(root["statistics/latents_std/channel_mean"][:], std.mean(axis=(0, 2, 3)), rtol=1e-9)
    position = mean.var(axis=(0, 1)) + np.square(std).mean(axis=(0, 1))
    np.testing.assert_allclose(root["statistics/latents/position_std"][:], np.sqrt(position), rtol=1e-9)
    np.testing.assert_allclose(store.summaries["latents"]["channel_std"], np.sqrt(variance), rtol=1e-9)
    places = np.sqrt(mean.var(axis=0) + np.square(std).mean(axis=0))
    np.testing.assert_allclose(store.position_normalisation()[1], places, rtol=1e-5)


@pytest.mark.parametrize("normalise", ["channel", "position"])
def test_normalised_draws_have_deviation_one(path, normalise):
    dataset = LatentDataset(path, normalise=normalise, sample_posterior=True)
    torch.manual_seed(0)
    draws = torch.stack([dataset[range(38)]["latents"] for _ in range(NUM_DRAWS)])
    axes = (0, 1, 3, 4) if normalise == "channel" else (0, 1)
    torch.testing.assert_close(draws.mean(axes), torch.zeros_like(draws.mean(axes)), atol=0.05, rtol=0)
    torch.testing.assert_close(draws.var(axes), torch.ones_like(draws.var(axes)), atol=0.1, rtol=0)


def test_mirrored_latents_are_drawn_by_their_own_deviations(make_store):
    path = make_store(**WITH_POSTERIOR, **INT8)
    dataset = LatentDataset(path, normalise="none", random_flip=True, sample_posterior=True)
    torch.manual_seed(0)
    draws = np.stack([dataset[range(40)]["latents"].numpy() for _ in range(NUM_DRAWS)])
    (mean, std), (mirrored, of_mirrored) = moments_of(path), moments_of(path, "latents_flip")
    # Half of either: the variance of a mixture.
    variance = (std**2 + of_mirrored**2) / 2 + ((mean - mirrored) / 2) ** 2
    assert (np.abs(draws.mean(0) - (mean + mirrored) / 2) <= 5 * np.sqrt(variance / NUM_DRAWS) + 1e-6).all()
    np.testing.assert_allclose(draws.var(0).mean(), variance.mean(), rtol=0.02)


def test_a_stream_draws_and_a_resumed_one_draws_the_same(path):
    def stream_of(epoch):
        stream = LatentStream(path, batch_size=4, sample_posterior=True, normalise="none", fields=("latents", "key"))
        stream.set_epoch(epoch)
        return stream

    first, again, other = (list(stream_of(epoch)) for epoch in (0, 0, 1))
    assert all(torch.equal(one["latents"], two["latents"]) for one, two in zip(first, again, strict=True))
    drawn, of_key = (
        {key: row for batch in batches for key, row in zip(batch["key"], batch["latents"], strict=True)}
        for batches in (first, other)
    )
    assert not any(torch.equal(drawn[key], of_key[key]) for key in drawn.keys() & of_key.keys())

    state = stream_of(0).state_dict(num_given=5)
    resumed = stream_of(0)
    resumed.load_state_dict(state)
    rest = [batch["latents"] for batch in resumed]
    assert all(map(torch.equal, rest, [batch["latents"] for batch in first[5:]]))

    mean, std = moments_of(path)
    rows = [int(key.removeprefix("a/").removesuffix(".jpg")) for key in drawn]
    places = np.searchsorted(LatentStore(path).ok_rows, rows)
    noise = (np.stack([each.numpy() for each in drawn.values()]) - mean[places]) / np.where(std, std, 1)[places]
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size) and abs(noise.var() - 1) < 5 * np.sqrt(2 / noise.size)


def test_a_stream_does_not_resume_one_that_drew_otherwise(path):
    drawing = LatentStream(path, batch_size=4, sample_posterior=True)
    plain = LatentStream(path, batch_size=4)
    for state, other in ((drawing.state_dict(0), plain), (plain.state_dict(0), drawing)):
        with pytest.raises(UsageError, match=r"the stream's sample_posterior was (True|False) and is (True|False)"):
            other.load_state_dict(state)
    earlier = {name: value for name, value in plain.state_dict(0).items() if name != "sample_posterior"}
    plain.load_state_dict(earlier)


def test_buckets_have_deviations_each_and_merged_statistics(make_buckets_store):
    path = make_buckets_store({"64x96": 20, "96x64": 30}, **WITH_POSTERIOR)
    stores = [LatentStore(bucket.folder.uri) for bucket in stores_of(StoreHandle(LocalFolder(path))).values()]
    values = [moments_of(store.folder.uri) for store in stores]
    means, stds = (np.concatenate([each[k].swapaxes(0, 1).reshape(4, -1) for each in values], axis=1) for k in (0, 1))

    summary = StoreHandle(LocalFolder(path)).attributes["statistics"]["latents"]
    np.testing.assert_allclose(summary["channel_std"], np.sqrt(means.var(1) + np.square(stds).mean(1)), rtol=1e-9)
    dataset = LatentDataset(path, normalise="none", sample_posterior=True)
    torch.manual_seed(0)
    draws = np.stack([dataset[range(20, 50)]["latents"].numpy() for _ in range(NUM_DRAWS)])
    assert_drawn_from(draws, *values[1])


def test_a_store_without_deviations_says_so(make_store):
    path = make_store()
    for refused in (
        lambda: LatentDataset(path, sample_posterior=True),
        lambda: LatentStream(path, batch_size=4, sample_posterior=True),
        lambda: LatentStore(path).deviations(),
    ):
        with pytest.raises(
            UsageError,
            match=r"store\.zarr holds no deviations of its latents; encode into another store with --posterior",
        ):
            refused()
    assert "posterior" not in StoreHandle(LocalFolder(path)).attributes["latent"]


def test_deviations_are_no_view_to_train_on_but_an_array_to_read(path):
    with pytest.raises(UsageError, match=r"has no view latents_std; it has latents"):
        LatentDataset(path, view="latents_std")
    store = LatentStore(path, "latents_std")
    stored = zarr.open_group(path, mode="r")["latents_std"]
    scale = np.array(stored.attrs.get("scale", [1.0] * 4))[:, None, None]
    np.testing.assert_allclose(store.latents([5]), stored[5:6] * scale, rtol=1e-6)
    assert np.isnan(store.latents([3])).all()
