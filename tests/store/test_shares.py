"""Which shard a rank takes next, and how long a launch of uneven ranks takes, by a simulated clock."""

import heapq
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from tcae_cli.images.partition import shards_of_rank
from tcae_cli.store.shares import Shares

LEASE_S = 60.0
LOOK_EVERY_S = 10.0


@dataclass
class Launch:
    """What all ranks of a launch have claimed and committed, and when which of them died."""

    num_shards: int
    now: float = 0.0
    claims: dict[int, int] = field(default_factory=dict)  # the rank that holds the latest claim of a shard
    committed: set[int] = field(default_factory=set)
    dies_at: dict[int, float] = field(default_factory=dict)

    def look_again(self) -> None:
        pass

    def is_open(self, shard: int) -> bool:
        return 0 <= shard < self.num_shards and shard not in self.claims

    def abandoned(self) -> Iterable[int]:
        ended = {rank for rank, dies_at in self.dies_at.items() if self.now - dies_at > LEASE_S}
        return [shard for shard, rank in self.claims.items() if rank in ended and shard not in self.committed]


def next_of(shares: Shares, launch: Launch, last: int | None = None) -> int | None:
    """The shard that a rank takes: its own before those of others."""
    own = shares.next_of_own(launch)
    return shares.next_of_others(launch, last) if own is None else own


def makespan(launch: Launch, shard_s: list[float], *, in_runs: bool) -> float:
    """The time at which the last shard is committed; shard_s: of each rank."""
    num_ranks, shards = len(shard_s), range(launch.num_shards)
    shares = [shards_of_rank(shards, rank, num_ranks, side_by_side=in_runs) for rank in range(num_ranks)]
    takers = [Shares(shares, rank, in_runs=in_runs) for rank in range(num_ranks)]
    under_way: dict[int, int] = {}  # rank -> shard
    last: dict[int, int] = {}
    events = [(0.0, rank) for rank in range(num_ranks)]
    while len(launch.committed) < launch.num_shards:
        launch.now, rank = heapq.heappop(events)
        if launch.now > launch.dies_at.get(rank, math.inf):
            continue
        if (done := under_way.pop(rank, None)) is not None:
            assert done not in launch.committed
            launch.committed.add(done)
        shard = next_of(takers[rank], launch, last.get(rank))
        if shard is None:
            heapq.heappush(events, (launch.now + LOOK_EVERY_S, rank))
            continue
        assert shard not in launch.committed and launch.claims.get(shard, -1) in (-1, *launch.dies_at)
        launch.claims[shard] = rank
        under_way[rank] = last[rank] = shard
        heapq.heappush(events, (launch.now + shard_s[rank], rank))
    return launch.now


def ideal(num_shards: int, shard_s: list[float], deaths: dict[int, float]) -> float:
    """The time after which ranks that share work without end have done it all."""
    left = float(num_shards)
    ends, now = sorted((died_at, rank) for rank, died_at in deaths.items()), 0.0
    alive = set(range(len(shard_s)))
    for died_at, rank in [*ends, (math.inf, -1)]:
        pace = sum(1 / shard_s[each] for each in alive)
        if left <= (died_at - now) * pace:
            return now + left / pace
        left -= (died_at - now) * pace
        now = died_at
        alive.discard(rank)
    raise AssertionError


def uneven(seed: int, shards_a_rank: int) -> tuple[list[float], dict[int, float]]:
    """64 ranks, one in eight half as fast, three of which die at some time; shard_s of each, and the deaths."""
    draw = random.Random(seed)
    fast_s = draw.choice([20.0, 60.0, 200.0])
    shard_s = [fast_s * (2 if rank % 8 == 0 else 1) for rank in range(64)]
    draw.shuffle(shard_s)
    all_s = shards_a_rank * fast_s
    return shard_s, {rank: draw.uniform(0, all_s) for rank in draw.sample(range(64), 3)}


@pytest.mark.parametrize("in_runs", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_with_fifty_shards_a_rank_uneven_ranks_end_within_five_percent_and_a_lease(seed, in_runs):
    shard_s, deaths = uneven(seed, 50)
    num_shards = 64 * 50
    took_s = makespan(Launch(num_shards, dies_at=deaths), shard_s, in_runs=in_runs)
    assert took_s <= 1.05 * ideal(num_shards, shard_s, deaths) + LEASE_S


@pytest.mark.parametrize("in_runs", [False, True])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shards_a_rank", [1, 2, 5, 20])
def test_with_few_shards_they_end_within_one_shard_of_the_slowest_and_a_lease(seed, shards_a_rank, in_runs):
    shard_s, deaths = uneven(seed, shards_a_rank)
    num_shards = 64 * shards_a_rank + seed
    took_s = makespan(Launch(num_shards, dies_at=deaths), shard_s, in_runs=in_runs)
    assert took_s <= ideal(num_shards, shard_s, deaths) + max(shard_s) + LEASE_S + LOOK_EVERY_S


@pytest.mark.parametrize("in_runs", [False, True])
def test_equally_fast_ranks_keep_to_their_own_shards(in_runs):
    launch = Launch(8 * 5)
    assert makespan(launch, [1.0] * 8, in_runs=in_runs) == 5.0
    assert launch.claims == {
        shard: rank for rank in range(8) for shard in shards_of_rank(range(40), rank, 8, side_by_side=in_runs)
    }


def test_shards_of_others_are_taken_from_the_end():
    shares = Shares([range(0, 12, 3), range(1, 12, 3), range(2, 12, 3)], rank=1)
    launch = Launch(12, claims={1: 1, 4: 1, 7: 1, 10: 1, 2: 2, 0: 0})
    taken = []
    while (shard := next_of(shares, launch)) is not None:
        taken.append(shard)
        launch.claims[shard] = 1
    assert taken == [11, 8, 5, 9, 6, 3]


def test_shards_of_groups_are_taken_in_runs_that_leave_the_owner_half():
    shares = Shares([range(4), range(4, 12)], rank=0, in_runs=True)
    launch = Launch(12, claims={0: 0, 1: 0, 2: 0, 3: 0, 4: 1})
    taken, last = [], 3
    while (shard := next_of(shares, launch, last)) is not None:
        taken.append(shard)
        launch.claims[shard] = 0
        last = shard
    assert taken == [8, 9, 10, 11, 6, 7, 5]
