"""LatentStream that goes on in mid-epoch from the state of another."""

from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader

from tcae_cli.errors import UsageError
from tcae_cli.store import stream as stream_file

from .test_dataset import int8_with_flip
from .test_stream import FAILED, NUM_ROWS, flat, keys_of, make_stream


@pytest.fixture
def path(make_store):
    return make_store(num_rows=NUM_ROWS, failed=FAILED)


@pytest.fixture
def become_worker(monkeypatch):
    """Makes this process worker `number` of `count`, as torch shows it; of 0, none."""

    def become(number: int, count: int) -> None:
        info = SimpleNamespace(id=number, num_workers=count) if count else None
        monkeypatch.setattr(stream_file, "get_worker_info", lambda: info)

    return become


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_given", [1, 5, 23, 24])
def test_a_resumed_stream_goes_on_with_what_an_uninterrupted_one_gives(path, num_workers, num_given):
    def epoch(stream, number):
        stream.set_epoch(number)
        return keys_of(DataLoader(stream, batch_size=None, num_workers=num_workers))

    whole = make_stream(path, 1, 2)
    first, second = epoch(whole, 4), epoch(whole, 5)
    assert len(first) == 24

    resumed = make_stream(path, 1, 2)
    whole.set_epoch(4)
    next(iter(DataLoader(whole, batch_size=None, num_workers=num_workers)))
    resumed.load_state_dict(whole.state_dict(num_given))
    assert epoch(resumed, 4) == first[num_given:]
    assert epoch(resumed, 5) == second


def test_its_state_says_what_it_gave(path):
    stream = make_stream(path)
    stream.set_epoch(2)
    batches = iter(stream)
    before = [next(batches)["key"] for _ in range(7)]
    state = stream.state_dict()
    after = keys_of(batches)

    resumed = make_stream(path)
    resumed.load_state_dict(state)
    assert (state["epoch"], state["num_given"]) == (2, 7)
    assert keys_of(resumed) == after and not set(flat(before)) & set(flat(after))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_epoch_that_is_begun_again_is_refused_not_given_in_part(
    path, num_workers, become_worker, monkeypatch
):
    stream = make_stream(path, batch_size=50)
    loader = DataLoader(stream, batch_size=None, num_workers=num_workers)
    list(loader)
    state = stream.state_dict(1)
    stream.load_state_dict(state)

    assert len(list(loader)) == 2
    for number in range(max(1, num_workers)):
        become_worker(number, num_workers)  # torch takes 5 s to end a real one that raised
        with pytest.raises(UsageError, match="epoch 0 was resumed and is begun again; call set_epoch before each"):
            next(iter(stream))
    monkeypatch.undo()
    stream.set_epoch(1)
    assert len(list(loader)) == 3 == len(list(loader))
    stream.load_state_dict(state)
    assert len(list(loader)) == 2


def test_with_workers_its_state_needs_the_number_of_batches_taken(path):
    stream = make_stream(path)
    batches = iter(DataLoader(stream, batch_size=None, num_workers=2))
    next(batches)

    with pytest.raises(UsageError, match=r"say how many you took: state_dict\(num_given\)"):
        stream.state_dict()
    with pytest.raises(UsageError, match="num_given is 50, and an epoch has 49 batches"):
        stream.state_dict(50)
    state = stream.state_dict(1)
    assert (state["num_given"], state["num_workers"]) == (1, 2)
    stream.set_epoch(1)
    assert stream.state_dict()["num_given"] == 0


@pytest.mark.parametrize(("number", "count"), [(0, 0), (0, 1), (2, 3)])
def test_another_number_of_workers_may_begin_an_epoch_and_not_go_on_in_one(path, become_worker, number, count):
    def resumed(num_given):
        stream = make_stream(path, batch_size=50)
        stream.load_state_dict(stream.state_dict(num_given) | {"num_workers": 2})
        return len(list(stream))

    become_worker(number, count)
    assert resumed(0) == (1 if count == 3 else 3)
    with pytest.raises(UsageError, match=f"the stream's num_workers was 2 and is {count}; resume with the first"):
        resumed(1)


def test_a_loader_that_keeps_the_state_of_each_worker_goes_on_too(path, become_worker):
    def in_worker(number, state=None, count=3):
        """What a worker of three gives after a state, and its state after 4 batches."""
        become_worker(number, 3)
        stream = make_stream(path)
        if state:
            stream.load_state_dict(state)
        batches = iter(stream)
        return [next(batches)["key"] for _ in range(count)], stream.state_dict(), keys_of(batches)

    for number in range(3):
        _, state, rest = in_worker(number)
        first, _, more = in_worker(number, state)
        assert first + more == rest


def test_what_cannot_be_gone_on_with_is_refused(path, make_store):
    state = make_stream(path).state_dict()

    with pytest.raises(UsageError, match="the stream's batch_size was 4 and is 8; resume with the first"):
        make_stream(path, batch_size=8).load_state_dict(state)
    with pytest.raises(UsageError, match="the stream's world_size was 1 and is 2"):
        make_stream(path, world_size=2).load_state_dict(state)
    with pytest.raises(UsageError, match="the stream's normalise was channel and is none"):
        make_stream(path, normalise="none").load_state_dict(state)
    with pytest.raises(UsageError, match="the state has no epoch; pass the result of a LatentStream's state_dict"):
        make_stream(path).load_state_dict({})

    other = make_store(num_rows=NUM_ROWS, failed=FAILED, name="other.zarr", rows_per_shard=32)
    with pytest.raises(UsageError, match="the stream's rows_per_shard was 16 and is 32"):
        make_stream(other).load_state_dict(state)


def test_a_state_is_of_one_view_and_its_flips(make_store):
    path = make_store(**int8_with_flip())
    state = make_stream(path).state_dict()

    with pytest.raises(UsageError, match="the stream's view was latents and is latents_flip"):
        make_stream(path, view="latents_flip").load_state_dict(state)
    with pytest.raises(UsageError, match="the stream's random_flip was False and is True"):
        make_stream(path, random_flip=True).load_state_dict(state)
    make_stream(path.rename(path.with_name("moved.zarr"))).load_state_dict(state)
