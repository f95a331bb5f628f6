"""Every row belongs to one batch of one shard of one rank."""

import pytest

from tcae_cli.images.partition import batches_of_rows, cut_in_order, deal_out, shards_of_part, shards_of_rank


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("num_shards", [0, 1, 7, 64])
def test_every_shard_has_one_owner(num_shards: int, world_size: int):
    owned = [
        shard
        for part in range(3)
        for rank in range(world_size)
        for shard in shards_of_rank(shards_of_part(num_shards, part, 3), rank, world_size)
    ]
    assert sorted(owned) == list(range(num_shards))


def test_a_rank_owns_every_so_many_th_shard():
    assert list(shards_of_rank(shards_of_part(10, 0, 1), rank=1, world_size=4)) == [1, 5, 9]


def test_batches_are_cut_inside_a_shard():
    assert batches_of_rows(16, 27, batch_size=4) == [range(16, 20), range(20, 24), range(24, 27)]
    assert batches_of_rows(16, 24, batch_size=4) == [range(16, 20), range(20, 24)]
    assert batches_of_rows(16, 16, batch_size=4) == []


@pytest.mark.parametrize("world_size", [1, 3, 8])
def test_what_differs_in_size_is_dealt_out_evenly(world_size: int):
    rows = [4096] * 5 + [64] * 360 + [16] * 40
    shares = deal_out(rows, world_size)
    assert sorted(item for share in shares for item in share) == list(range(len(rows)))
    loads = [sum(rows[item] for item in share) for share in shares]
    assert max(loads) <= 1.01 * sum(loads) / world_size


def test_what_is_cut_in_order_stays_side_by_side():
    rows = [100] * 10 + [1] * 50 + [300]
    shares = cut_in_order(rows, 4)
    assert [item for share in shares for item in share] == list(range(len(rows)))
    assert max(sum(rows[item] for item in share) for share in shares) < 500
