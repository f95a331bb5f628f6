"""Who does which rows: a function of the full list of shards, so ranks need not talk to each other."""


def shards_of_rank(num_shards: int, rank: int, world_size: int) -> range:
    """Shards a rank owns: s with s mod world_size = rank."""
    return range(rank, num_shards, world_size)


def batches_of_shard(first_row: int, last_row: int, batch_size: int) -> list[range]:
    """Rows first_row ... last_row - 1 cut into batches; only the last may be shorter."""
    return [range(row, min(row + batch_size, last_row)) for row in range(first_row, last_row, batch_size)]
