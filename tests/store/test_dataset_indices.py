"""What a LatentDataset may be indexed with."""

import numpy as np
import pytest
import torch
from torch.utils.data import WeightedRandomSampler

from tcae_cli import LatentDataset
from tcae_cli.errors import UsageError

from .conftest import SHAPE


def test_one_sample_a_list_of_samples_and_a_batch_are_the_same(make_store):
    dataset = LatentDataset(make_store(), fields=("latents", "label", "key"))
    indices = [39, 3, 17, 3]

    batch, samples = dataset[indices], dataset.__getitems__(indices)
    assert batch["latents"].shape == (4, *SHAPE) and batch["key"] == ["a/39.jpg", "a/3.jpg", "a/17.jpg", "a/3.jpg"]
    for slot, index in enumerate(indices):
        for sample in (samples[slot], dataset[index]):
            assert torch.equal(sample["latents"], batch["latents"][slot])
            assert sample["label"] == batch["label"][slot] and sample["key"] == batch["key"][slot]
    with pytest.raises(IndexError):
        dataset[40]


@pytest.mark.parametrize(
    "index", [slice(0, 2), 1.7, True, [True] * 40, [0.0, 1.0], torch.ones(40, dtype=torch.bool), [[0, 1], [2, 3]], "3"]
)
def test_what_is_no_index_is_refused_not_read_as_one(make_store, index):
    dataset = LatentDataset(make_store())
    with pytest.raises(UsageError, match="an index is a whole number or a list of them, not "):
        dataset[index]


def test_indices_may_be_whole_numbers_of_any_kind(make_store):
    dataset = LatentDataset(make_store(), fields=["key"])

    for index in (range(2, 4), (2, 3), np.array([2, 3], np.uint8), torch.tensor([2, 3]), list(torch.tensor([2, 3]))):
        assert dataset[index]["key"] == ["a/2.jpg", "a/3.jpg"]
    assert dataset[torch.tensor(2)]["key"] == dataset[np.int32(2)]["key"] == "a/2.jpg"
    assert dataset[[]]["key"] == []


def test_no_indices_give_an_empty_batch(make_store):
    batch = LatentDataset(make_store())[[]]

    assert batch["latents"].shape == (0, 4, 2, 3) and batch["label"].shape == (0,)


def test_labels_are_those_of_the_samples_so_that_a_sampler_draws_classes_equally_often(make_store):
    failed = {row for row in range(10, 40) if row % 2}
    dataset = LatentDataset(make_store(failed=failed), fields=["label"])

    assert dataset.labels.dtype == torch.int64 and len(dataset.labels) == len(dataset) == 25
    assert torch.equal(dataset.labels, torch.stack([dataset[index]["label"] for index in range(25)]))
    weights = 1 / dataset.labels.bincount()[dataset.labels]
    sampler = WeightedRandomSampler(weights, 2000, generator=torch.Generator().manual_seed(0))
    assert dataset[list(sampler)]["label"].float().mean() == pytest.approx(0.5, abs=0.05)
