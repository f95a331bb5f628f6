"""Training from tars read front to back: each image comes once an epoch, for any readers, and a unit is resumed."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import closing
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest

from tcae_cli.errors import SourceError
from tcae_cli.images.image_file import encode_image
from tcae_cli.recipe.schema import DataSpec, LossSpec, ModelSpec, Recipe, TrainSpec
from tcae_cli.training.views.crops import TrainingBatch
from tcae_cli.training.views.stream import TrainingStream, stream_training_batches
from tcae_cli.training.views.tar_stream import Tars, expand_tars

SIZE = 32  # pixels


def recipe(batch_size: int = 1, shuffle_buffer: int | None = 4, seed: int = 0) -> Recipe:
    return Recipe(
        model=ModelSpec(image_size=SIZE, latent_channels=8, width=32, depths=(1, 1), num_heads=2),
        data=DataSpec(resize_min=SIZE, resize_max=SIZE, shuffle_buffer=shuffle_buffer),
        loss=LossSpec(perceptual=None),
        train=TrainSpec(steps=1, batch_size=batch_size, seed=seed),
    )


def grey(number: int) -> bytes:
    """Return an image that its pixels identify, however it is cropped."""
    return encode_image(np.full((SIZE, SIZE, 3), number, np.uint8), "png")


@pytest.fixture
def shards(make_tar, tmp_path: Path) -> Callable[..., str]:
    """Return a maker of tars of so many images each, numbered through all tars; it returns their pattern."""

    def make(*num_images: int) -> str:
        first = 0
        for number, count in enumerate(num_images):
            make_tar(f"s-{number}.tar", {f"{place:03}.png": grey(place) for place in range(first, first + count)})
            first += count
        return f"{tmp_path}/s-{{0..{len(num_images) - 1}}}.tar" if len(num_images) > 1 else f"{tmp_path}/s-0.tar"

    return make


def tars(uri: str) -> Tars:
    return Tars(uri, expand_tars(uri))


def numbers(batches: list[TrainingBatch]) -> list[int]:
    return [number for batch in batches for number in batch.images[:, 0, 0, 0].tolist()]


def samples(batches: list[TrainingBatch]) -> list[int]:
    return [sample for batch in batches for sample in batch.samples.tolist()]


def unit(sample: int) -> int:
    return sample >> 32


def take(num_batches: int, uri: str, of: Recipe, rank=0, world_size=1, workers=0, first_unit=0) -> list[TrainingBatch]:
    with closing(
        stream_training_batches(TrainingStream(tars(uri), of, rank, world_size), workers, first_unit)
    ) as batches:
        return list(islice(batches, num_batches))


def take_below(stop: int, uri: str, of: Recipe, rank=0, world_size=1, first_unit=0) -> list[TrainingBatch]:
    """Return the batches until one reports that all units below `stop` have been given."""
    taken: list[TrainingBatch] = []
    with closing(stream_training_batches(TrainingStream(tars(uri), of, rank, world_size), 0, first_unit)) as batches:
        while not taken or taken[-1].first_unit < stop:
            taken.append(next(batches))
    return taken


@pytest.mark.parametrize(
    ("num_images", "world_size"),
    [((5, 6, 7, 4), 1), ((5, 6, 7, 4), 2), ((5, 6, 7, 4), 3), ((3, 8), 3), ((7,), 3)],
    ids=lambda value: str(value),
)
def test_every_image_comes_once_an_epoch_over_all_ranks(shards, num_images, world_size):
    uri, num_units, of = shards(*num_images), len(num_images), recipe(batch_size=world_size)
    for epoch in (1, 2):
        seen = [numbers(take_below(epoch * num_units, uri, of, rank, world_size)) for rank in range(world_size)]
        assert sorted(chain(*seen)) == sorted([*range(sum(num_images))] * epoch) and all(seen)


def test_every_image_comes_once_an_epoch_over_workers_of_ranks_and_its_workers_leave_with_it(shards):
    uri, of = shards(6, 6, 6, 6), recipe(batch_size=6)
    batches = [take(8, uri, of, rank, world_size=2, workers=2) for rank in (0, 1)]
    assert not multiprocessing.active_children()
    for half in (slice(0, 4), slice(4, 8)):
        epoch = [batch for of_rank in batches for batch in of_rank[half]]
        assert sorted(numbers(epoch)) == [*range(24)]
    given = [sample for of_rank in batches for sample in samples(of_rank)]
    assert len(set(given)) == len(given) == 48


def test_a_worker_process_gives_what_this_process_would(shards):
    uri, of = shards(5, 6), recipe(batch_size=4)
    here, there = take(5, uri, of), take(5, uri, of, workers=1)
    assert samples(here) == samples(there)
    assert [batch.first_unit for batch in here] == [batch.first_unit for batch in there]


def test_fewer_images_than_consumers_go_round(shards):
    uri = shards(2)
    for rank in range(3):
        assert set(numbers(take(4, uri, recipe(batch_size=3), rank, world_size=3))) == {0, 1}


def test_ranks_have_batches_of_one_size_however_unequal_the_shards_are(shards):
    uri = shards(1, 9, 2)
    for rank in range(2):
        batches = take(12, uri, recipe(batch_size=8), rank, world_size=2)
        assert [batch.images.shape for batch in batches] == [(4, 3, SIZE, SIZE)] * 12


def test_the_order_is_another_in_each_epoch_and_the_same_for_the_same_seed(shards):
    uri = shards(*[1] * 12)
    orders = [numbers(take(24, uri, recipe(shuffle_buffer=1, seed=seed))) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:12] != orders[0][12:] and orders[0][:12] != [*range(12)]


def test_the_buffer_shuffles_within_its_size_and_no_further(shards):
    uri = shards(200)
    assert numbers(take(200, uri, recipe(shuffle_buffer=1))) == [*range(200)]
    order = numbers(take(200, uri, recipe(shuffle_buffer=50)))
    ahead = [number - place for place, number in enumerate(order)]
    assert max(ahead[:150]) in range(40, 50) and np.mean(np.abs(ahead)) > 15
    assert order != numbers(take(200, uri, recipe(shuffle_buffer=50, seed=1)))


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 2), (2, 1), (3, 2)])
def test_it_goes_on_from_a_unit_on_any_number_of_ranks_and_misses_nothing(shards, before, after):
    uri = shards(5, 6, 7, 4, 5)
    whole = samples(take_below(15, uri, recipe()))
    given = [take(48 // before, uri, recipe(batch_size=before), rank, before) for rank in range(before)]
    first_unit = min(batches[-1].first_unit for batches in given)
    rest = [take_below(15, uri, recipe(batch_size=after), rank, after, first_unit) for rank in range(after)]
    assert first_unit >= 5
    assert sorted(chain(*map(samples, rest))) == [sample for sample in sorted(whole) if unit(sample) >= first_unit]
    assert {sample for sample in whole if unit(sample) < first_unit} <= set(chain(*map(samples, given)))


def test_an_image_in_the_buffer_keeps_its_unit_unread(shards):
    uri, of = shards(3, 3, 3, 3), recipe(shuffle_buffer=100)
    batches = take(13, uri, of)  # the buffer takes a whole epoch in before the first comes out
    units = [unit(sample) for sample in samples(batches)]
    for place, batch in enumerate(batches[:11]):
        assert batch.first_unit == min(units[place + 1 : 12])
    assert batches[11].first_unit == 4


def test_a_unit_counts_as_read_when_all_workers_are_done_with_those_before(shards):
    uri, of = shards(20, 1, 1, 1), recipe(batch_size=2, shuffle_buffer=2)
    whole, given = samples(take_below(24, uri, recipe())), set()
    batches = take(40, uri, of, workers=2)
    for batch in batches:
        given.update(batch.samples.tolist())
        assert {sample for sample in whole if unit(sample) < batch.first_unit} <= given
    assert 0 < batches[-1].first_unit < 24


def test_views_of_an_image_are_the_same_whoever_reads_it_and_others_in_the_next_epoch(photos, make_tar):
    paths = sorted(photos.rglob("*.jpg"))[:6]
    uri = str(make_tar("s-0.tar", {f"{place}.jpg": path.read_bytes() for place, path in enumerate(paths)}))
    of = recipe(batch_size=2).model_copy(update={"data": DataSpec(resize_min=40, resize_max=64, shuffle_buffer=3)})
    alone = {batch.samples[slot].item(): batch.images[slot] for batch in take(6, uri, of) for slot in (0, 1)}
    for rank in (0, 1):
        for batch in take(3, uri, of, rank, world_size=2):
            assert batch.images[0].equal(alone[batch.samples[0].item()])
    twice = [[alone[sample] for sample in alone if sample % (1 << 32) == place] for place in range(6)]
    assert any(not first.equal(second) for first, second in twice)


def test_pipes_give_every_image_once_an_epoch_without_a_shuffle_buffer_in_the_recipe(shards, tmp_path):
    shards(5, 6)
    uri = f"pipe:cat {tmp_path}/s-{{0..1}}.tar | cat"
    assert sorted(numbers(take(11, uri, recipe(shuffle_buffer=None)))) == [*range(11)]


def test_a_pipe_that_is_closed_early_leaves_no_command_behind(shards, tmp_path):
    shards(50)
    uri = f"pipe:echo $$ > {tmp_path}/pid; cat {tmp_path}/s-0.tar; exec sleep 1000"
    assert numbers(take(2, uri, recipe(shuffle_buffer=1))) == [0, 1]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize("protocol", ["s3", "http"])
def test_remote_tars_are_read_as_local_ones(shards, put, tmp_path, object_store, bucket, protocol):
    local = shards(5, 6)
    put({f"shards/s-{number}.tar": (tmp_path / f"s-{number}.tar").read_bytes() for number in (0, 1)})
    root = bucket if protocol == "s3" else f"{object_store}/{bucket.removeprefix('s3://')}"
    uri = f"{root}/shards/s-{{0..1}}.tar"
    workers = 1 if protocol == "s3" else 0
    assert numbers(take(15, uri, recipe(), workers=workers)) == numbers(take(15, local, recipe()))


def test_images_that_cannot_be_read_are_skipped_and_counted(make_tar):
    members = {"a.png": grey(1), "b.png": b"oops", "b.cls": b"1", ".c.png": b"", "d.txt": b"d", "e.png": grey(2)}
    batches = take(3, str(make_tar("s.tar", members)), recipe(batch_size=2, shuffle_buffer=1))
    assert numbers(batches) == [1, 2] * 3 and [batch.num_failed for batch in batches] == [1] * 3


def test_what_a_damaged_tar_still_holds_counts_and_the_rest_is_one_failure_a_pass(shards, tmp_path):
    uri = shards(5, 4)
    tar = tmp_path / "s-0.tar"
    tar.write_bytes(tar.read_bytes().partition(b"003.png")[0])
    batches = take(7 * 6 + 1, uri, recipe(shuffle_buffer=1))
    assert sorted(numbers(batches[:14])) == sorted([0, 1, 2, 5, 6, 7, 8] * 2)
    assert [sum(batch.num_failed for batch in batches[:end]) for end in (8, 43)] == [1, 6]


def test_tars_without_any_image_that_can_be_read_are_refused(make_tar, tmp_path):
    for number, members in enumerate([{"a.png": b"oops"}, {"a.txt": b"text"}, {}]):
        make_tar(f"s-{number}.tar", members)
    (tmp_path / "s-3.tar").write_bytes(b"no tar at all")
    for world_size in (1, 3):
        with pytest.raises(SourceError, match=r"there is no image that can be read in any of 4 tars; images are"):
            take(1, f"{tmp_path}/s-{{0..3}}.tar", recipe(batch_size=world_size), 0, world_size)


def test_one_shard_without_images_is_no_end(make_tar, shards):
    uri = shards(1, 1)
    make_tar("s-0.tar", {"a.png": b"oops"})
    for rank in (0, 1):
        assert numbers(take(9, uri, recipe(batch_size=2), rank, world_size=2)) == [1] * 9


@pytest.mark.parametrize("workers", [0, 1])
def test_a_tar_that_vanishes_ends_the_stream_in_one_sentence(shards, tmp_path, workers):
    uri = shards(9)
    with closing(stream_training_batches(TrainingStream(tars(uri), recipe()), workers)) as batches:
        next(batches)
        (tmp_path / "s-0.tar").unlink()
        with pytest.raises(SourceError, match=r"^\S+/s-0\.tar cannot be read \(No such file.*\); restore it .*\Z"):
            list(islice(batches, 30))


def test_a_worker_that_is_killed_ends_the_stream_in_one_sentence(shards):
    with closing(stream_training_batches(TrainingStream(tars(shards(9, 9)), recipe()), 2)) as batches:
        next(batches)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        with pytest.raises(SourceError, match=r"s-\{0\.\.1\}\.tar: a process that reads it was lost \(.+\); continue"):
            list(islice(batches, 30))
    assert not multiprocessing.active_children()
