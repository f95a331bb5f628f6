"""Shares out shards and rows as a function of the full list of shards, so that ranks need not communicate."""

import heapq
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def shards_of_part(num_shards: int, part: int, num_parts: int) -> range:
    """Return the shards that one of `num_parts` parts owns: s with s mod num_parts = part."""
    return range(part, num_shards, num_parts)


def shards_of_rank(shards: Sequence[Item], rank: int, world_size: int, *, side_by_side: bool = False) -> Sequence[Item]:
    """Return those of a launch's shards, or rows, that a rank owns: every so many-th, or as many side by side.

    side_by_side: for a source that is read in groups or front to back, so that each part of it is read by one rank.
    """
    if not side_by_side:
        return shards[rank::world_size]
    return shards[rank * len(shards) // world_size : (rank + 1) * len(shards) // world_size]


def deal_out(loads: Sequence[int], num_shares: int) -> list[list[int]]:
    """Share out items of unequal load, the largest first, each to the share that has least; return their numbers.

    The numbers in a share are ascending. Source: longest processing time first (Graham 1969).
    """
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    least = [(0, share) for share in range(num_shares)]
    for item in sorted(range(len(loads)), key=lambda item: -loads[item]):
        load, share = heapq.heappop(least)
        shares[share].append(item)
        heapq.heappush(least, (load + loads[item], share))
    return [sorted(share) for share in shares]


def cut_in_order(loads: Sequence[int], num_shares: int) -> list[list[int]]:
    """Share out items side by side, in stretches of about equal load; return their numbers."""
    total, before = sum(loads), 0
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    for item, load in enumerate(loads):
        middle = before + load / 2
        shares[min(num_shares - 1, int(middle * num_shares / total))].append(item)
        before += load
    return shares


def batches_of_rows(first_row: int, last_row: int, batch_size: int) -> list[range]:
    """Cut rows first_row ... last_row - 1 into batches; only the last may be shorter."""
    return [range(row, min(row + batch_size, last_row)) for row in range(first_row, last_row, batch_size)]
