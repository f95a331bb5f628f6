"""LatentDataset: samples and batches of a store, ready to train on."""

import pickle
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import s3fs
import torch
from torch.utils.data import DataLoader

from tcae_cli import LatentDataset, LatentStore
from tcae_cli.errors import StoreError, UsageError
from tcae_cli.jobs.encode import encode_dataset
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.store.spec import Quantisation, View

from . import conftest
from .conftest import SHAPE, known_latents

FAILED = {0, 17, 39}
OK_ROWS = [row for row in range(40) if row not in FAILED]


@pytest.fixture(scope="module")
def encode(photos, small_checkpoint, tmp_path_factory):
    """Encodes photographs with their mirrored images."""

    def run(source=photos, **options):
        path = tmp_path_factory.mktemp("encoded") / "store.zarr"
        request = EncodeRequest(
            source=str(source), store=str(path), model=str(small_checkpoint), device="cpu", num_workers=0, **options
        )
        encode_dataset(request, Silent())
        return path

    return run


@pytest.fixture(scope="module")
def flip_store(encode):
    return encode(flip=True)


def int8_with_flip() -> dict[str, Any]:
    """What a store of int8 latents says of itself, two views whose values are the same and whose steps are not."""
    sizes = {"size": 64, "height": 2, "width": 3}
    return {
        "dtype": "int8",
        "views": {"latents": View(flip=False, **sizes), "latents_flip": View(flip=True, **sizes)},
        "quantisation": Quantisation(
            num_images=1,
            quantile=1.0,
            scale={"latents": [0.5, 1, 2, 4], "latents_flip": [1, 2, 4, 8]},
            relative_rmse={},
            psnr_float32=1.0,
            psnr_int8=1.0,
        ),
    }


def every_latent(dataset: LatentDataset) -> torch.Tensor:
    return dataset[range(len(dataset))]["latents"]


@pytest.mark.parametrize("options", [{}, {"codec": "none"}, {"dtype": "float32"}, int8_with_flip()])
def test_latents_are_those_of_the_store_normalised(make_store, options):
    path = make_store(**options)
    store = LatentStore(path)

    for in_memory in (False, True):
        latents = every_latent(LatentDataset(path, in_memory=in_memory))
        assert latents.dtype == torch.float32
        assert np.array_equal(latents.numpy(), store.normalise(store.latents(range(40))))


def test_failed_rows_are_left_out(make_store):
    dataset = LatentDataset(make_store(failed=FAILED), normalise="none", fields=("latents", "key"))

    assert len(dataset) == 37
    assert np.array_equal(every_latent(dataset).numpy(), known_latents(40)[OK_ROWS].astype(np.float32))
    assert dataset[range(37)]["key"] == [f"a/{row}.jpg" for row in OK_ROWS]
    assert [sample["key"] for sample in dataset] == [f"a/{row}.jpg" for row in OK_ROWS]  # stops after the last


def test_pending_rows_are_left_out_with_a_warning_and_cannot_be_normalised(make_store):
    path = make_store(shards=[1])

    with pytest.warns(UserWarning, match="not complete"):
        dataset = LatentDataset(path, normalise="none")
    assert np.array_equal(every_latent(dataset).numpy(), known_latents(40)[16:32].astype(np.float32))
    for normalise in ("channel", "position"):
        with (
            pytest.warns(match="not complete"),
            pytest.raises(StoreError, match="no statistics yet; finish it by repeating"),
        ):
            LatentDataset(path, normalise=normalise)


def test_latents_of_another_size_are_denormalised_by_channel(make_store):
    dataset = LatentDataset(make_store())
    mean, _ = dataset.store.channel_normalisation

    assert torch.equal(dataset.denormalise(torch.zeros(2, 4, 8, 8)), torch.from_numpy(mean).expand(2, 4, 8, 8))


def test_each_position_has_mean_0_and_deviation_1_over_the_store_and_comes_back(make_store):
    dataset = LatentDataset(make_store(failed=FAILED), normalise="position")
    latents = every_latent(dataset)

    assert torch.allclose(latents.mean(0), torch.zeros(SHAPE), atol=1e-6)
    assert torch.allclose(latents.std(0, correction=0), torch.ones(SHAPE), atol=1e-6)
    raw = torch.from_numpy(known_latents(40)[OK_ROWS]).float()
    assert torch.allclose(dataset.denormalise(latents), raw, rtol=0, atol=1e-6)
    assert torch.allclose(dataset.denormalise(latents[3]), raw[3], rtol=0, atol=1e-6)


def test_a_position_that_does_not_vary_is_0_and_comes_back(make_store, monkeypatch):
    latents = known_latents(40)
    latents[:, 1, 0, 2] = 0.1
    monkeypatch.setattr(conftest, "known_latents", lambda *_: latents)
    dataset = LatentDataset(make_store(), normalise="position")

    values = every_latent(dataset)
    assert (values[:, 1, 0, 2] == 0).all() and values.isfinite().all()
    assert torch.equal(dataset.denormalise(values).half(), torch.from_numpy(latents))


def test_a_flip_is_drawn_for_each_sample_by_torchs_seed(flip_store):
    views = [LatentDataset(flip_store, view=view, normalise="none") for view in ("latents", "latents_flip")]
    plain, mirrored = map(every_latent, views)
    assert not any(torch.equal(*pair) for pair in zip(plain, mirrored, strict=True))

    for in_memory in (False, True):
        dataset = LatentDataset(flip_store, normalise="none", random_flip=True, in_memory=in_memory)
        torch.manual_seed(0)
        first, second = every_latent(dataset), every_latent(dataset)
        is_flipped = [torch.equal(sample, other) for sample, other in zip(first, mirrored, strict=True)]
        is_plain = [torch.equal(sample, other) for sample, other in zip(first, plain, strict=True)]
        assert [not flipped for flipped in is_flipped] == is_plain and 5 < sum(is_plain) < 19
        assert not torch.equal(first, second)
        torch.manual_seed(0)
        assert torch.equal(every_latent(dataset), first)


def test_int8_views_are_scaled_each_with_its_own_steps(make_store):
    path = make_store(**int8_with_flip())
    plain = torch.from_numpy(LatentStore(path).latents(range(40)))
    dataset = LatentDataset(path, normalise="none", random_flip=True)

    torch.manual_seed(0)
    latents = every_latent(dataset)
    is_flipped = torch.tensor([torch.equal(*pair) for pair in zip(latents, 2 * plain, strict=True)])
    assert torch.equal(latents[~is_flipped], plain[~is_flipped]) and 8 < is_flipped.sum() < 32


def test_fields_are_what_the_store_says_of_each_row(make_store):
    path = make_store(failed={0}, has_captions=True)
    dataset = LatentDataset(path, fields=("key", "caption", "class_name", "label", "latents"))

    sample = dataset[4]
    assert list(sample) == ["key", "caption", "class_name", "label", "latents"]
    assert (sample["key"], sample["caption"], sample["class_name"]) == ("a/5.jpg", "caption 5 \N{SNOWMAN}", "b")
    assert sample["label"].dtype == torch.int64 and sample["label"].shape == () and sample["label"] == 1
    assert sample["latents"].shape == SHAPE == dataset.sample_shape
    assert (dataset.num_classes, dataset.class_names) == (2, ("a", "b"))
    assert list(LatentDataset(path, fields=["label"])[0]) == ["label"]
    assert LatentDataset(make_store(name="mute.zarr"), fields=["caption"])[3] == {"caption": ""}


def test_images_without_a_class_have_label_minus_1_and_no_name(photos, encode):
    dataset = LatentDataset(encode(photos / "animal"), fields=("label", "class_name"))

    assert dataset[range(8)]["label"].tolist() == [-1] * 8
    assert dataset[0]["class_name"] == "" and dataset.num_classes == 0


def test_it_pickles_with_what_it_holds(flip_store):
    for in_memory in (False, True):
        dataset = LatentDataset(flip_store, fields=("latents", "key"), normalise="position", in_memory=in_memory)
        again = pickle.loads(pickle.dumps(dataset))
        assert torch.equal(every_latent(again), every_latent(dataset)) and again[5]["key"] == dataset[5]["key"]


def test_memory_is_read_once(flip_store, monkeypatch):
    dataset = LatentDataset(flip_store, in_memory=True, random_flip=True)
    monkeypatch.setattr(LatentStore, "stored", None)
    assert every_latent(dataset).isfinite().all()


def test_a_remote_store_gives_the_same_in_this_process_and_in_one_that_was_forked(flip_store, bucket):
    s3fs.S3FileSystem().put(f"{flip_store}/", f"{bucket}/store.zarr/", recursive=True)
    here = LatentDataset(flip_store, fields=("latents", "key"))
    there = LatentDataset(f"{bucket}/store.zarr", fields=("latents", "key"))

    expected, read = here[[23, 0, 8]], there[[23, 0, 8]]
    assert torch.equal(read["latents"], expected["latents"]) and read["key"] == expected["key"]
    (forked,) = DataLoader(there, 3, sampler=[23, 0, 8], num_workers=1, multiprocessing_context="fork", timeout=20)
    assert torch.equal(forked["latents"], expected["latents"])


def test_an_ok_row_that_the_store_has_lost_is_an_error(make_store):
    path = make_store()
    dataset = LatentDataset(path)
    (path / "latents" / "c.1.0.0.0").unlink()

    with pytest.raises(StoreError, match=r"latents/c\.1\.0\.0\.0 lacks the latents of row 20; see tcae verify"):
        dataset[20]
    assert dataset[3]["latents"].isfinite().all()


def test_batches_need_a_thread(make_store):
    with pytest.raises(UsageError, match="num_threads is 0; use 1 or more"):
        next(LatentDataset(make_store()).batches([[0]], num_threads=0))


def test_what_there_is_not_is_refused_in_a_sentence(make_store):
    path = make_store()
    with pytest.raises(UsageError, match="has no view latents_flip; encode into another store with --flip"):
        LatentDataset(path, random_flip=True)
    with pytest.raises(UsageError, match="there is no field 'labels'; use some of latents, label, class_name"):
        LatentDataset(path, fields=("latents", "labels"))
    with pytest.raises(UsageError, match="normalise is 'chanel'; use one of channel, position, model, none"):
        LatentDataset(path, normalise="chanel")
    with pytest.raises(UsageError, match="has no view latents_512"):
        LatentDataset(path, view="latents_512")


def test_shared_memory_that_is_too_small_is_named(flip_store):
    script = (
        "import resource, sys; from tcae_cli import LatentDataset; from tcae_cli.errors import DiskError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))\n"
        "try: LatentDataset(sys.argv[1], in_memory=True)\n"
        "except DiskError as error: print(error)"
    )
    command = [sys.executable, "-c", script, str(flip_store)]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.search(r"could not allocate [\d.]+ MiB of shared memory", printed) and "docker run --shm-size" in printed
