"""Batches of one bucket, as many on every rank, each sample at most once an epoch."""

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import pytest

from tcae_cli.errors import UsageError
from tcae_cli.store.bucket_sampler import BucketBatchSampler, SamplesOfBucket

EVERY_WAY = list(product((True, False), (True, False), (1, 3, 8)))  # drop_last, same_bucket, ranks


@dataclass
class Dataset:
    buckets: list[SamplesOfBucket]


def dataset_of(counts: list[int]) -> Dataset:
    ends = np.cumsum([0, *counts]).tolist()
    shapes = [(64 * (2 + number % 4), 64 * (2 + number // 4)) for number in range(len(counts))]
    ranges = pairwise(ends)
    return Dataset([SamplesOfBucket(range(*each), *shape) for each, shape in zip(ranges, shapes, strict=True)])


def samplers(dataset: Dataset, world_size: int, batch_size: int = 16, **options) -> list[BucketBatchSampler]:
    return [BucketBatchSampler(dataset, batch_size, 0, rank, world_size, **options) for rank in range(world_size)]


def bucket_of(dataset: Dataset, batch: list[int]) -> int:
    (found,) = {number for number, bucket in enumerate(dataset.buckets) for sample in batch if sample in bucket.samples}
    return found


@pytest.fixture(scope="module")
def many() -> Dataset:
    """100,000 samples in 15 buckets, the smallest of which have 3."""
    shares = np.random.default_rng(1).dirichlet(np.full(14, 0.3))
    counts = np.random.default_rng(0).multinomial(99_997, shares).tolist()
    return dataset_of([*counts, 3])


@pytest.mark.parametrize(("drop_last", "same_bucket", "world_size"), EVERY_WAY)
def test_no_sample_comes_twice_and_every_rank_has_as_many_batches(many, drop_last, same_bucket, world_size):
    ranks = samplers(many, world_size, drop_last=drop_last, same_bucket=same_bucket)
    batches = [list(rank) for rank in ranks]
    assert len({len(each) for each in batches} | {len(rank) for rank in ranks}) == 1
    given = np.array(sorted(sample for each in batches for batch in each for sample in batch))
    assert len(np.unique(given)) == len(given) == 100_000 - ranks[0].num_dropped
    assert np.array_equal(np.setdiff1d(np.arange(100_000), given), ranks[0].dropped())
    if not drop_last:
        assert ranks[0].num_dropped == 0
    for batch in (batch for each in batches for batch in each[::500]):
        bucket_of(many, batch)
        assert len(batch) == 16 if drop_last else 1 <= len(batch) <= 16


@pytest.mark.parametrize("drop_last", [True, False])
def test_the_batches_of_a_step_are_of_one_bucket_but_for_the_rest(drop_last):
    dataset = dataset_of([1000, 500, 130, 7, 2])
    steps = list(zip(*samplers(dataset, 4, drop_last=drop_last), strict=True))
    mixed = sum(len({bucket_of(dataset, batch) for batch in step}) > 1 for step in steps)
    assert mixed <= (1 if drop_last else 2) and len(steps) - mixed >= 15 + 7 + 2


def test_epochs_differ_and_repeat():
    (sampler,) = samplers(dataset_of([100, 50]), 1)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


@pytest.mark.parametrize(("drop_last", "same_bucket", "world_size"), EVERY_WAY)
def test_an_epoch_that_is_resumed_has_the_rest(drop_last, same_bucket, world_size):
    options = {"drop_last": drop_last, "same_bucket": same_bucket}
    dataset = dataset_of([700, 300, 40])
    for rank in range(world_size):
        whole = samplers(dataset, world_size, **options)[rank]
        whole.set_epoch(3)
        batches = list(whole)
        drawing = iter(whole)
        for _ in range(2):
            next(drawing)
        resumed = samplers(dataset, world_size, **options)[rank]
        resumed.load_state_dict(whole.state_dict())
        assert list(resumed) == batches[2:]
        resumed.set_epoch(4)
        whole.set_epoch(4)
        assert list(resumed) == list(whole)


def test_batches_of_one_sample_that_cannot_be_shared_evenly_are_fewer_than_the_ranks():
    ranks = samplers(dataset_of([99_000, 1002]), 4, batch_size=1, drop_last=False)
    assert {len(rank) for rank in ranks} == {25_000} and ranks[0].num_dropped == 2


def test_a_bucket_of_fewer_batches_than_ranks_is_not_dropped_in_every_epoch():
    dataset = dataset_of([67, 98, 22])
    ranks = samplers(dataset, 4, batch_size=8)
    given = np.zeros(187, int)
    for epoch in range(50):
        for rank in ranks:
            rank.set_epoch(epoch)
            given += np.bincount(np.concatenate(list(rank)), minlength=187)
    assert {len(rank) for rank in ranks} == {5} and given.min() > 0 and given.max() <= 50


def test_a_state_between_epochs_begins_the_next_one():
    (sampler,) = samplers(dataset_of([100]), 1)
    list(sampler)
    sampler.set_epoch(1)
    (resumed,) = samplers(dataset_of([100]), 1)
    resumed.load_state_dict(sampler.state_dict())
    assert list(resumed) == list(sampler) and len(list(resumed)) == len(sampler)


def test_training_says_how_many_it_took_where_batches_are_drawn_ahead():
    (sampler,) = samplers(dataset_of([100]), 1)
    batches = list(sampler)
    sampler.load_state_dict(sampler.state_dict(num_given=4))
    assert list(sampler) == batches[4:]


def test_a_batch_has_at_most_so_many_pixels():
    dataset = dataset_of([100, 100])  # 128 x 128 and 192 x 128
    (sampler,) = samplers(dataset, 1, max_pixels=10 * 128 * 128)
    assert {(bucket_of(dataset, batch), len(batch)) for batch in sampler} == {(0, 10), (1, 6)}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 0}, "batch_size is 0; use 1 or more"),
        ({"max_pixels": 0}, "max_pixels is 0; use 1 or more"),
        ({"rank": 2, "world_size": 2}, "rank is 2; those of 2 ranks are 0 to 1"),
        ({"batch_size": 101}, "100 samples are less than a batch for each of 1 ranks; use a smaller batch_size"),
    ],
)
def test_what_cannot_be_is_refused(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        BucketBatchSampler(dataset_of([100]), **{"batch_size": 8} | options)


def test_a_state_of_another_run_is_refused():
    (one,) = samplers(dataset_of([100]), 1)
    (other,) = samplers(dataset_of([100]), 1, batch_size=8)
    with pytest.raises(UsageError, match="the sampler's batch_size was 8 and is 16; resume with the first"):
        one.load_state_dict(other.state_dict())
    with pytest.raises(UsageError, match="the state has no epoch; pass the result of a BucketBatchSampler's state"):
        one.load_state_dict({})
