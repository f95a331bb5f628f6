"""In a bucket as on a disk: what a dead process leaves is taken over, and labels and captions change all or none."""

import json
import shutil
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import s3fs

from tcae_cli.errors import StoreError
from tcae_cli.jobs.update_metadata import update_store
from tcae_cli.jobs.verify import verify_store
from tcae_cli.reports.encode import EncodeRequest, UpdateReport
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.store import VerifyRequest
from tcae_cli.runtime.remote_folder import RemoteFolder
from tcae_cli.store.lease import Place, join_store
from tcae_cli.store.reader import LatentStore

from ..forked import Run
from ..store_contents import assert_same_arrays, assert_same_store
from .conftest import Killed
from .test_remote_store import objects, wait_for


def contents(uri: str) -> dict[str, bytes]:
    """The objects below a URI, by name; others may remove some meanwhile."""
    names = list(objects(uri))
    found: dict[str, bytes] = s3fs.S3FileSystem().cat(names, on_error="omit") if names else {}
    return found


def stop_within_a_shard(rank: Run, member: str, store: str) -> None:
    """Let a rank of a launch stand still at a moment when it has claimed a shard that has no record yet."""
    patience_ends_at = time.monotonic() + 60
    while True:
        assert time.monotonic() < patience_ends_at
        rank.send_signal(signal.SIGSTOP)
        claims = contents(f"{store}/.tcae/claims")
        claimed = {name.rpartition("/")[2][:6] for name, data in claims.items() if json.loads(data)["member"] == member}
        if claimed - {name.rpartition("/")[2][:6] for name in objects(f"{store}/.tcae/commits")}:
            return
        rank.send_signal(signal.SIGCONT)
        time.sleep(0.05)


def test_what_a_killed_rank_had_begun_is_taken_over_by_the_other(many_photos, bucket, tmp_path, encode, start_tcae):
    source, there = tmp_path / "six-shards", f"{bucket}/store.zarr"
    source.mkdir()
    for path in sorted(many_photos.iterdir())[:96]:
        (source / path.name).symlink_to(path)
    ranks = [
        start_tcae(source, there, "--batch-size", "1", "--workers", "0", environment=place)
        for place in ({"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_PORT": "1"} for rank in "01")
    ]
    wait_for(f"{there}/.tcae/commits", 1)
    stop_within_a_shard(ranks[1], "1", there)
    ranks[1].kill()
    ranks[1].communicate()
    _, said = ranks[0].communicate(timeout=120)
    assert ranks[0].returncode == 0 and "rank 0 takes over shard" in said, said

    encode(source, tmp_path / "store.zarr", batch_size=1)
    assert_same_store(there, tmp_path / "store.zarr")
    assert not objects(f"{there}/.tcae/claims")
    assert verify_store(VerifyRequest(store=there, num_rows=0), Silent()).problems == []
    assert encode(source, there, batch_size=1).num_encoded_now == 0  # and the lease of the dead rank is no hindrance
    assert not objects(f"{there}/.tcae/leases")


def test_a_launch_of_another_machine_counts_until_it_has_been_silent_for_a_minute(bucket):
    from moto.s3.models import s3_backends

    claim = {"state": "ready", "host": "another-machine", "pid": 1, "processes": "pid:[1]", "owner": "other"}
    name = ".tcae/leases/there.0.json"
    s3fs.S3FileSystem().pipe_file(f"{bucket}/store.zarr/{name}", json.dumps(claim).encode())
    folder = RemoteFolder(f"{bucket}/store.zarr")
    with pytest.raises(StoreError, match="written by process 1 on another-machine"), join_store(folder, Place("here")):
        pass
    (objects_there,) = [
        found.keys
        for account in s3_backends.values()
        for found in account["aws"].buckets.values()
        if found.name == bucket.removeprefix("s3://")
    ]
    objects_there[f"store.zarr/{name}"].last_modified = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=2)
    with join_store(folder, Place("here")):
        assert [name.rpartition("/")[2] for name in objects(f"{bucket}/store.zarr")] == ["here.0.json"]


@pytest.fixture
def described(photos, bucket, tmp_path, encode) -> tuple[Path, str]:
    """The photographs with labels and captions, in two shards, and their store in a bucket."""
    source = shutil.copytree(photos, tmp_path / "photos")
    for image in source.rglob("*.jpg"):
        image.with_suffix(".txt").write_text(f"number {image.stem}")
    encode(source, f"{bucket}/store.zarr")
    return source, f"{bucket}/store.zarr"


def correct(source: Path) -> None:
    """One caption of each shard is another, and one is gone."""
    (source / "animal/0.txt").write_text("the first")
    (source / "animal/1.txt").unlink()
    (source / "thing/7.txt").write_text("the last")


def update(source: Path, store: str | Path, **options) -> UpdateReport:
    request = EncodeRequest(source=str(source), store=str(store), update_metadata=True, **options)
    return update_store(request, Silent())


def test_an_update_makes_the_store_that_would_have_been_encoded(described, tmp_path, encode):
    source, there = described
    correct(source)
    (tmp_path / "names.txt").write_text("thing\nperson\nanimal\n")
    before = objects(f"{there}/latents")
    report = update(source, there, classes=str(tmp_path / "names.txt"))
    assert (report.num_labels, report.num_captions, report.updated) == (16, 3, True)
    assert objects(f"{there}/latents") == before
    encode(source, tmp_path / "fresh.zarr", classes=str(tmp_path / "names.txt"))
    assert_same_arrays(there, tmp_path / "fresh.zarr")
    assert verify_store(VerifyRequest(store=there, source=str(source), num_rows=0), Silent()).problems == []
    assert not update(source, there).updated
    assert encode(source, there).num_encoded_now == 0


def test_an_update_that_is_cut_short_anywhere_changes_all_or_nothing(described, die_after, monkeypatch):
    source, there = described
    rows = range(24)
    old = LatentStore(there).captions(rows)
    correct(source)
    new = [*old[:23], "the last"]
    new[:2] = ["the first", ""]
    found = []
    for count in range(100):
        die_after(count)
        try:
            update(source, there)
            break
        except Killed:
            store = LatentStore(there)
            assert store.complete
            found.append(store.captions(rows))
            assert found[-1] in (old, new), count
    assert found[0] == old and found[-1] == new  # it was cut before the root was written, and after
    monkeypatch.undo()
    assert LatentStore(there).captions(rows) == new
    assert verify_store(VerifyRequest(store=there, source=str(source), num_rows=0), Silent()).problems == []
