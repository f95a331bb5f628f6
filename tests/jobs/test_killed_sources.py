"""A run from files that hold many images, killed and repeated, equals one that was not stopped."""

import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ..forked import Run
from ..pictures import write_tar, write_zip
from ..store_contents import assert_same_store, wait_for_commits

ROWS_PER_GROUP = 40  # a shard has 16: some lie in two groups


def write_parquet(photos: list[Path], folder: Path) -> Path:
    folder.mkdir()
    for number in range(2):
        half = photos[number * 120 : (number + 1) * 120]
        images = [{"bytes": path.read_bytes(), "path": path.name} for path in half]
        pq.write_table(pa.table({"image": images}), folder / f"{number}.parquet", row_group_size=ROWS_PER_GROUP)
    return folder


def write_arrow(photos: list[Path], folder: Path) -> Path:
    features = datasets.Features({"image": datasets.Image()})
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in photos]
    datasets.Dataset.from_dict({"image": images}, features=features).save_to_disk(folder, num_shards=2)
    return folder


def write_tar_gz(photos: list[Path], path: Path) -> Path:
    return write_tar(path.with_suffix(".tar.gz"), {photo.name: photo.read_bytes() for photo in photos})


def write_zips(photos: list[Path], folder: Path) -> str:
    folder.mkdir()
    for number, half in enumerate((photos[:90], photos[90:])):
        write_zip(folder / f"{number}.zip", {photo.name: photo.read_bytes() for photo in half}, zipfile.ZIP_DEFLATED)
    return f"{folder}/*.zip"


def write_tar_zst(photos: list[Path], path: Path) -> Path:
    return write_tar(path.with_suffix(".tar.zst"), {photo.name: photo.read_bytes() for photo in photos})


# One rank decodes in a worker; two decode in their own processes, since every worker takes seconds to start.
@pytest.mark.parametrize(
    ("write", "num_ranks"),
    [*product((write_parquet, write_arrow, write_tar_gz), (1, 2)), (write_tar_zst, 2), (write_zips, 2)],
)
def test_a_killed_run_resumes_and_equals_one_that_was_not_stopped(
    many_photos: Path,
    tmp_path: Path,
    encode,
    start_tcae,
    write: Callable[[list[Path], Path], Path | str],
    num_ranks: int,
):
    source = write(sorted(many_photos.iterdir()), tmp_path / "source")
    killed = tmp_path / "killed.zarr"

    def launch(name: str) -> list[Run]:
        environment = {"WORLD_SIZE": str(num_ranks), "TORCHELASTIC_RUN_ID": name}
        return [
            start_tcae(
                source,
                killed,
                *("--batch-size", "2", "--workers", "1" if num_ranks == 1 else "0"),
                environment=environment | {"RANK": rank, "LOCAL_RANK": rank},
            )
            for rank in map(str, range(num_ranks))
        ]

    ranks = launch("first")
    wait_for_commits(killed, 3)
    for rank in ranks:  # all at once: a rank that is left does the work of the others
        rank.kill()
    for rank in ranks:
        rank.communicate()
    committed = {path: path.stat().st_mtime_ns for path in killed.glob(".tcae/commits/*.json")}
    assert len(committed) < 15

    for rank in launch("second"):
        _, stderr = rank.communicate(timeout=120)
        assert rank.returncode == 0, stderr
    assert all(path.stat().st_mtime_ns == written_at for path, written_at in committed.items())
    encode(source, tmp_path / "whole.zarr", batch_size=2)
    assert_same_store(killed, tmp_path / "whole.zarr")
