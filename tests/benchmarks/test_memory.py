"""Memory does not grow with the dataset: a million rows, in two real ranks. What is a stand-in, `many_rows.py` says."""

import shutil
from pathlib import Path

import pytest

from ..many_rows import encode_in_ranks, write_long_index

NUM_ROWS, SETTLED_AT, NUM_RANKS = 1_000_000, 10_000, 2


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    write_long_index(folder, NUM_ROWS)
    return folder


@pytest.mark.parametrize(("size", "flip"), [(256, False), (512, True)], ids=["256 px", "512 px, flip"])
def test_a_million_rows_take_no_more_memory_than_ten_thousand(size, flip, index, small_checkpoint, tmp_path, show):
    store = tmp_path / "out.zarr"
    ranks = encode_in_ranks(NUM_RANKS, index, store, small_checkpoint, size=size, flip=flip, settled_at=SETTLED_AT)
    shutil.rmtree(store)

    assert sum(rank.num_rows for rank in ranks) == NUM_ROWS
    for number, rank in enumerate(ranks):
        settled, largest = rank.settled, rank.largest
        show(f"{size} px{', flip' if flip else ''}, rank {number}: {settled.all:.0f} MB at {SETTLED_AT:,} rows,")
        show(f"  at most {largest.all:.0f} MB up to its last of {rank.num_rows:,}: {largest.all / settled.all:.2f}")
        own, files = (f"{getattr(settled, kind):.0f} and {getattr(largest, kind):.0f}" for kind in ("own", "files"))
        show(f"  of this its own {own} MB, of files mapped {files} MB")
    assert all(rank.largest.all <= 1.2 * rank.settled.all for rank in ranks)
