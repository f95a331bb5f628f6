"""Memory does not grow with the dataset; tests/benchmarks has the same with a million rows."""

from pathlib import Path

import pytest

from ..many_rows import encode_in_ranks, write_long_index


@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_twenty_thousand_rows_take_no_more_memory_than_two_thousand(small_checkpoint, tmp_path):
    write_long_index(tmp_path / "index", 20_000)
    settings = {"size": 64, "flip": True, "settled_at": 2_000}
    (rank,) = encode_in_ranks(1, tmp_path / "index", tmp_path / "out.zarr", small_checkpoint, **settings)
    assert rank.num_rows == 20_000
    assert rank.largest.all <= 1.2 * rank.settled.all
    assert rank.largest.own <= rank.settled.own + 25
