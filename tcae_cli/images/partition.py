"""Shares out shards and rows as a function of the full list of shards, so that ranks need not communicate."""

from collections.abc import Sequence


def shards_of_part(num_shards: int, part: int, num_parts: int) -> range:
    """Return the shards that one of `num_parts` parts owns: s with s mod num_parts = part."""
    return range(part, num_shards, num_parts)


def shards_of_rank(shards: Sequence[int], rank: int, world_size: int, *, side_by_side: bool = False) -> Sequence[int]:
    """Return those of a launch's shards that a rank owns: every so many-th, or as many side by side.

    side_by_side: for a source that is read in groups or front to back, so that each part of it is read by one rank.
    """
    if not side_by_side:
        return shards[rank::world_size]
    return shards[rank * len(shards) // world_size : (rank + 1) * len(shards) // world_size]


def batches_of_rows(first_row: int, last_row: int, batch_size: int) -> list[range]:
    """Cut rows first_row ... last_row - 1 into batches; only the last may be shorter."""
    return [range(row, min(row + batch_size, last_row)) for row in range(first_row, last_row, batch_size)]
