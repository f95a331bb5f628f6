"""Latents for the interpolated FID, read from a store, against the definition in plain numpy."""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm

from tcae_cli.autoencoders.by_name import load_autoencoder
from tcae_cli.autoencoders.checkpoint import LatentStatistics, ModelDescription, save_checkpoint
from tcae_cli.errors import StoreError
from tcae_cli.evaluation.metrics import ifid as eval_ifid
from tcae_cli.evaluation.metrics.ifid import Interpolation
from tcae_cli.images.transform import to_uint8
from tcae_cli.metrics.frechet import FeatureSums, frechet_distance
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import ModelSpec
from tcae_cli.reports.progress import Silent
from tcae_cli.store.reader import LatentStore

from ...conftest import PHOTOGRAPHS, SMALL_MODEL
from ...seeded_networks import SeededInception

NUM_WINDOWS, SIZE, BROKEN = 500, 64, 123


def write_windows(folder: Path, count: int) -> None:
    """Windows of real photographs, some of which overlap."""
    package, rng = Path(find_spec("skimage").origin).parent / "data", np.random.default_rng(0)
    photographs = [Image.open(package / name).convert("RGB") for name in PHOTOGRAPHS.values()]
    folder.mkdir()
    for number in range(count):
        picture, side = photographs[number % 3], int(rng.integers(48, 250))
        left, top = (int(rng.integers(length - side)) for length in picture.size)
        picture.crop((left, top, left + side, top + side)).resize((SIZE, SIZE)).save(folder / f"{number:03d}.png")


@pytest.fixture(scope="module")
def windows(tmp_path_factory) -> Path:
    """500 images, and one that is broken."""
    folder = tmp_path_factory.mktemp("ifid") / "windows"
    write_windows(folder, NUM_WINDOWS)
    (folder / f"{BROKEN:03d}-broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A small model with random weights, whose latents are far enough apart to be drawn unequally often."""
    torch.manual_seed(0)
    spec = ModelSpec(**SMALL_MODEL)
    tcae = TCAE(spec)
    with torch.no_grad():
        tcae.to_latents.mlp.fc2.weight *= 40
    path = tmp_path_factory.mktemp("model") / "loud.safetensors"
    statistics = LatentStatistics(mean=[0.0] * 8, std=[1.0] * 8, num_images=1)
    description = ModelDescription(spec=spec, statistics=statistics, recipe={}, step=0)
    save_checkpoint(path, tcae.state_dict(), description)
    return path


@pytest.fixture(scope="module")
def path(windows, encode, model) -> Path:
    """A store of them."""
    encode(windows, windows.parent / "store.zarr", model=str(model))
    return windows.parent / "store.zarr"


def interpolated(store, queries, rank=0, world_size=1, batch_size=32, seed=0, progress=None) -> list[torch.Tensor]:
    interpolation = Interpolation(store, torch.device("cpu"), batch_size, progress or Silent(), seed)
    return list(interpolation.batches(queries, rank, world_size))


def plain_interpolations(store, queries, seed=0, num_neighbours=10) -> np.ndarray:
    """As the definition reads: the whole matrix of similarities, all in float64."""
    rows = store.ok_rows
    z = store.latents(rows).astype(np.float64).reshape(len(rows), -1)
    norms = np.linalg.norm(z, axis=1)
    similarity = z @ z.T / np.outer(norms, norms) - 2 * np.eye(len(z))
    uniform = torch.rand(len(queries), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
    results = []
    for number, query in zip(uniform, np.searchsorted(rows, queries), strict=True):
        nearest = np.sort(np.argsort(-similarity[query])[:num_neighbours])
        weights = np.exp(-np.square(z[query] - z[nearest]).mean(axis=1))
        other = nearest[np.searchsorted(np.cumsum(weights / weights.sum()), number, side="right")]
        angle = np.arccos(similarity[query, other])
        results.append(np.sin(angle / 2) / np.sin(angle) * (z[query] + z[other]))
    return np.stack(results).reshape(-1, *store.sample_shape)


def test_latents_from_a_store_equal_the_plain_definition_on_500_rows(path):
    store = LatentStore(path)
    assert len(store) == NUM_WINDOWS + 1 and len(store.ok_rows) == NUM_WINDOWS

    batches = interpolated(store, store.ok_rows)
    assert {batch.dtype for batch in batches} == {torch.float32} and len(batches[0]) == 32
    result = torch.cat(batches).numpy()
    np.testing.assert_allclose(result, plain_interpolations(store, store.ok_rows), atol=1e-6)
    originals = store.latents(store.ok_rows)
    assert np.abs(result - originals).max(axis=(1, 2, 3)).min() > 1e-3  # each has gone somewhere


def test_some_of_the_rows_go_to_neighbours_among_all(path):
    store, queries = LatentStore(path), [400, 7, 7, 250, 0]

    result = torch.cat(interpolated(store, queries, batch_size=2, seed=3)).numpy()
    np.testing.assert_allclose(result, plain_interpolations(store, queries, seed=3), atol=1e-6)


def test_interpolated_fid_equals_that_of_the_plain_definition(path, windows, model):
    store, decoder = LatentStore(path), load_autoencoder(str(model), torch.device("cpu"))
    network, files = SeededInception(), sorted(path for path in windows.iterdir() if "broken" not in path.name)

    def features(latents):
        with torch.no_grad():
            return network(to_uint8(decoder.decode(latents)))[:, :64]

    pixels = np.stack([np.asarray(Image.open(path)) for path in files])
    originals = network(torch.from_numpy(pixels).permute(0, 3, 1, 2))[:, :64]
    decoded = FeatureSums.of([features(batch) for batch in interpolated(store, store.ok_rows)])
    fid = frechet_distance(decoded.gaussian(), FeatureSums.of([originals]).gaussian())

    expected = features(torch.from_numpy(plain_interpolations(store, store.ok_rows)).float())
    assert fid > 1
    assert fid == pytest.approx(plain_distance(expected.double().numpy(), originals.double().numpy()), rel=1e-4)


def plain_distance(one: np.ndarray, other: np.ndarray) -> float:
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    means = np.square(one.mean(0) - other.mean(0)).sum()
    return float(means + np.trace(first + second - 2 * sqrtm(first @ second).real))


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_have_the_latents_of_one_to_the_bit(path, world_size):
    store = LatentStore(path)
    alone = interpolated(store, store.ok_rows)

    shares = [interpolated(store, store.ok_rows, rank, world_size) for rank in range(world_size)]
    assert sum(map(len, shares)) == len(alone)
    for number, batch in enumerate(alone):
        assert torch.equal(shares[number % world_size][number // world_size], batch)


def test_a_rank_without_a_batch_has_nothing_to_do(path):
    store = LatentStore(path)

    assert interpolated(store, [4, 5], rank=1, world_size=2) == []
    assert len(interpolated(store, [4, 5], rank=0, world_size=2)) == 1


class WatchedStore(LatentStore):
    """Counts what is read, and how many rows at most at a time."""

    num_read = most_together = 0

    def latents(self, rows):
        self.num_read += len(rows)
        self.most_together = max(self.most_together, len(rows))
        return super().latents(rows)


def test_the_store_is_read_in_blocks_once_for_as_many_queries_as_fit(path, monkeypatch):
    queries, bytes_of_batch = list(range(120)), 40 * 4 * int(np.prod(LatentStore(path).sample_shape))
    at_once = interpolated(LatentStore(path), queries, batch_size=40)

    for num_passes, budget in ((1, 3 * bytes_of_batch), (2, 2 * bytes_of_batch), (3, 1)):
        monkeypatch.setattr(eval_ifid, "_QUERY_BYTES", budget)
        monkeypatch.setattr(eval_ifid, "_BLOCK_BYTES", bytes_of_batch)
        store = WatchedStore(path)
        for one, other in zip(interpolated(store, queries, batch_size=40), at_once, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
        assert store.most_together == 40
        assert store.num_read == 2 * len(queries) + num_passes * NUM_WINDOWS  # queries, neighbours, references


class Tally(Silent):
    """Remembers what each task has to do, and how much of it was done."""

    def __init__(self) -> None:
        self.total, self.done = {}, Counter()

    def start(self, task, total, done=0, unit="images") -> None:
        self.total[task], self.done[task], self.task = total, done, task

    def advance(self, count=1, failed=0, note="") -> None:
        self.done[self.task] += count


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("query_bytes", [1, 2**30], ids=["in passes", "in one pass"])
def test_the_first_rank_tells_how_far_all_are(path, monkeypatch, world_size, query_bytes):
    monkeypatch.setattr(eval_ifid, "_QUERY_BYTES", query_bytes)
    tally = Tally()
    interpolated(LatentStore(path), range(100), world_size=world_size, progress=tally)

    assert tally.total == tally.done == {"find neighbours": NUM_WINDOWS, "interpolate": 100}


def test_few_rows_go_to_one_of_those_there_are(encode, tmp_path):
    write_windows(tmp_path / "few", 4)
    encode(tmp_path / "few", tmp_path / "store.zarr")
    store = LatentStore(tmp_path / "store.zarr")

    result = torch.cat(interpolated(store, range(4))).numpy()
    np.testing.assert_allclose(result, plain_interpolations(store, range(4), num_neighbours=3), atol=1e-6)


def test_a_single_image_has_nothing_to_go_to(encode, tmp_path):
    write_windows(tmp_path / "one", 1)
    (tmp_path / "one" / "broken.png").write_bytes(b"no image")
    encode(tmp_path / "one", tmp_path / "store.zarr", max_failures="1")

    with pytest.raises(StoreError, match=r"store.zarr has latents of 1 images, ifid needs two .*; encode more"):
        interpolated(LatentStore(tmp_path / "store.zarr"), [1])
