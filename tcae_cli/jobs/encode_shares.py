"""Shares out the shards of a run's stores among its parts, and those of a part among the ranks of a launch."""

from collections.abc import Sequence

from tcae_cli.images.partition import cut_in_order, deal_out, shards_of_part, shards_of_rank
from tcae_cli.store.spec import StoreSpec


def of_part(specs: Sequence[StoreSpec], part: int, num_parts: int) -> list[Sequence[int]]:
    """Return the shards of each store that a part owns, whose ranks share them.

    Those of a store by itself are dealt out in turn. Buckets differ in size, and so do their shards: these are dealt
    out by their rows over all buckets together.
    """
    if len(specs) == 1:
        return [shards_of_part(specs[0].num_shards, part, num_parts)]
    everything = [range(spec.num_shards) for spec in specs]
    return _dealt(specs, everything, num_parts, side_by_side=False)[part]


def of_ranks(
    specs: Sequence[StoreSpec], shards: Sequence[Sequence[int]], world_size: int, *, side_by_side: bool
) -> list[list[Sequence[int]]]:
    """Return, for each store, the shards that each rank owns of these.

    side_by_side: for a source that is read in groups or front to back, so that each part of it is read by one rank.
    """
    if len(specs) == 1:
        ranks = range(world_size)
        return [[shards_of_rank(shards[0], rank, world_size, side_by_side=side_by_side) for rank in ranks]]
    shares = _dealt(specs, shards, world_size, side_by_side=side_by_side)
    return [[share[store] for share in shares] for store in range(len(specs))]


def _dealt(
    specs: Sequence[StoreSpec], shards: Sequence[Sequence[int]], num_shares: int, *, side_by_side: bool
) -> list[list[Sequence[int]]]:
    """Return the shards of each store in each of so many shares."""
    items = [(store, shard) for store, of_store in enumerate(shards) for shard in of_store]
    rows = [len(specs[store].rows_of_shard(shard)) for store, shard in items]
    shares = (cut_in_order if side_by_side else deal_out)(rows, num_shares)
    return [
        [[items[item][1] for item in share if items[item][0] == store] for store in range(len(specs))]
        for share in shares
    ]
