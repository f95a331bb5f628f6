"""Who may write a shard, and what becomes of a rank that was taken for dead."""

import json
import os
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tcae_cli.reports.progress import Silent
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.store import lease as lease_module
from tcae_cli.store.claims import Claim, ClaimLost, claim_shard, clear_claims, latest_claims, naming_lost_claims
from tcae_cli.store.commit import finalise
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.lease import Place, join_store
from tcae_cli.store.shares import Shares
from tcae_cli.store.work import AllWork, SharedWork
from tcae_cli.store.writer import ShardPlan, StoreWriter

from ..store_contents import assert_same_store
from .conftest import known_latents, write_plan

MINUTES_AGO = 1_000_000_000.0
SHARDS = range(5)  # of 16 rows: 0, 2 and 4 belong to rank 0, 1 and 3 to rank 1


class Rank:
    """One of two ranks of a launch, which live in one process here; its lease says another."""

    def __init__(self, path, number: int, context: ExitStack) -> None:
        self.folder = LocalFolder(path)
        self.folder.owner = f"{number:012x}-{os.getpid()}"
        self.lease = context.enter_context(join_store(self.folder, Place("launch", str(number), str(number))))
        self.lease_file = path / self.lease.name
        self.lease_file.write_text(json.dumps(json.loads(self.lease_file.read_text()) | {"pid": os.getppid()}))
        self.writer = StoreWriter(StoreHandle(self.folder), self.lease.check)
        shares = Shares([SHARDS[0::2], SHARDS[1::2]], number)
        self.work = AllWork([SharedWork(self.writer, self.lease, shares, Silent())], self.lease.check)

    def write(self, plan: ShardPlan) -> None:
        with naming_lost_claims(plan.claim):
            write_plan(self.writer, plan, known_latents(self.writer.spec.num_rows), set())

    def write_all(self) -> list[int]:
        """Encode as long as there is anything; the shards that were written."""
        written = []
        while plan := self.work.wait():
            self.write(plan)
            written.append(plan.shard)
        return written

    def stand_still(self) -> None:
        """Let the lease end."""
        os.utime(self.lease_file, (MINUTES_AGO, MINUTES_AGO))


@pytest.fixture
def ranks(make_store, monkeypatch):
    """Two ranks of a launch that fill one store."""
    monkeypatch.setattr(lease_module, "_HEARTBEAT_S", 1000.0)
    path = make_store(16 * len(SHARDS), shards=())
    with ExitStack() as context:
        yield Rank(path, 0, context), Rank(path, 1, context)


@pytest.fixture
def assert_whole(ranks, make_store) -> Callable[[], None]:
    def check() -> None:
        path = ranks[0].folder.path
        assert finalise(StoreHandle(LocalFolder(path)))
        assert_same_store(path, make_store(16 * len(SHARDS), name="whole.zarr"))
        assert not list((path / ".tcae/claims").iterdir())
        assert not list((path / ".tcae/part").iterdir())

    return check


def test_a_rank_that_has_done_its_own_takes_what_the_other_has_not_begun(ranks, assert_whole):
    slow, fast = ranks
    slow_has = slow.work.take()
    assert slow_has.shard == 0
    written = []
    while plan := fast.work.take():
        fast.write(plan)
        written.append(plan.shard)
    assert written == [1, 3, 4, 2]

    slow.write(slow_has)
    assert slow.work.wait() is fast.work.wait() is None
    assert_whole()


def test_a_shard_whose_rank_is_alive_is_left_to_it(ranks):
    slow, fast = ranks
    slow.work.take()
    while plan := fast.work.take():
        fast.write(plan)
    assert fast.work.take() is None
    slow.stand_still()
    assert fast.work.take().shard == 0


def test_what_an_ended_rank_had_begun_is_done_by_the_other(ranks, assert_whole):
    dead, alive = ranks
    plans = [dead.work.take(), dead.work.take()]
    half = dead.folder.begin("latents/c.0.0.0.0")
    half.write(b"half")
    dead.stand_still()
    assert alive.write_all() == [1, 3, 4, 0, 2]
    assert [plan.shard for plan in plans] == [0, 2]
    assert_whole()
    half.discard()


@pytest.mark.parametrize("number", range(7))
def test_a_rank_that_stood_still_at_any_moment_gives_up_what_was_taken_over(ranks, assert_whole, monkeypatch, number):
    slow, fast = ranks
    calls, check = iter(range(100)), Claim.check

    def then_stand_still(claim: Claim) -> None:
        check(claim)
        if claim.folder is slow.folder and next(calls) == number:
            slow.stand_still()
            assert fast.write_all() == [1, 3, 4, 2, 0]

    monkeypatch.setattr(Claim, "check", then_stand_still)
    if number == 6:  # never: the record was written before
        slow.write(slow.work.take())
        assert fast.write_all() == [1, 3, 4, 2]
    else:
        with pytest.raises(ClaimLost, match="another rank has taken over shard 0"):
            slow.write(slow.work.take())
        assert latest_claims(fast.folder)[0] == 1
    assert slow.work.wait() is None
    assert_whole()


def test_a_rank_that_wakes_up_after_all_is_done_finds_nothing_to_do(ranks, assert_whole):
    slow, fast = ranks
    slow_has = slow.work.take()
    slow.stand_still()
    fast.write_all()
    assert_whole()
    with pytest.raises(ClaimLost):
        slow.write(slow_has)
    assert slow.work.wait() is None
    assert not latest_claims(slow.folder)


def test_files_that_came_under_the_record_of_another_rank_are_encoded_again(ranks, assert_whole):
    dead, alive = ranks
    dead.work.take()
    dead.stand_still()
    alive.write_all()
    (file,) = (alive.folder.path / "latents").glob("c.0.*")
    file.write_bytes(file.read_bytes()[::-1])  # as another GPU would have made them

    assert not finalise(StoreHandle(alive.folder))
    assert alive.work.is_reopened()
    assert alive.write_all() == [0]
    assert_whole()


def test_claims_of_an_earlier_launch_are_cleared_once_their_records_fit(ranks, assert_whole):
    first, second = ranks
    for rank, number in ((first, 0), (second, 1)):  # claimed twice, and so looked at
        claim_shard(rank.folder, rank.lease.member, 0, number)
    clear_claims(first.folder, SHARDS, lambda: {second.folder.owner})
    assert latest_claims(first.folder) == {0: 1}
    write_plan(first.writer, first.writer.plan([0])[0], known_latents(80), set())
    (file,) = (first.folder.path / "latents").glob("c.0.*")
    file.write_bytes(file.read_bytes()[::-1])
    clear_claims(first.folder, SHARDS[1:], set)
    assert latest_claims(first.folder) == {0: 1}

    clear_claims(first.folder, SHARDS, set)
    assert not latest_claims(first.folder) and not list((first.folder.path / ".tcae/commits").iterdir())
    assert second.write_all() == [1, 3, 4, 2, 0]
    assert_whole()
