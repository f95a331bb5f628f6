"""Processes that nothing connects but the store fill it as one would."""

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tcae_cli.cli import _run
from tcae_cli.errors import StoreError
from tcae_cli.jobs import encode as encode_job
from tcae_cli.sources.source import Source
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.reader import LatentStore

from ..forked import COMMAND, Run
from ..store_contents import assert_same_arrays, assert_same_store, files_of, wait_for_commits


@pytest.fixture(scope="module")
def broken_photos(many_photos, tmp_path_factory) -> Path:
    """240 photographs, three of them cut short: of the first shard, the second and the last."""
    folder = tmp_path_factory.mktemp("broken") / "photos"
    shutil.copytree(many_photos, folder)
    for row, path in enumerate(sorted(folder.iterdir())):
        if row in (3, 17, 239):
            path.write_bytes(path.read_bytes()[:700])
    return folder


@pytest.fixture(scope="module")
def one(broken_photos, encode, tmp_path_factory) -> Path:
    """The store that one process makes of them."""
    path = tmp_path_factory.mktemp("one") / "store.zarr"
    assert encode(broken_photos, path).exit_code == 3
    return path


def finish(processes: Sequence[subprocess.Popen[str] | Run]) -> tuple[list[int], list[str], str]:
    """Their exit codes, what each printed, and what all said on stderr."""
    spoken = [process.communicate(timeout=120) for process in processes]
    codes = [process.returncode for process in processes]
    return codes, [printed for printed, _ in spoken], "".join(said for _, said in spoken)


def committed(store: Path) -> dict[Path, int]:
    """When each record was written."""
    return {path: path.stat().st_mtime_ns for path in store.glob(".tcae/commits/*.json")}


def test_tasks_of_slurm_fill_one_store(broken_photos, one, tmp_path, start_tcae):
    store, job = tmp_path / "store.zarr", {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}
    tasks = [{"SLURM_PROCID": number, "SLURM_LOCALID": "0", "SLURM_NTASKS_PER_NODE": "1"} for number in "01"]
    codes, printed, said = finish(
        [start_tcae(broken_photos, store, "--workers", "0", environment=job | task) for task in tasks]
    )

    assert sorted(codes) == [0, 3], said
    assert "".join(printed).count("is complete: 237 rows ok, 3 failed") == 1
    assert_same_store(store, one)
    assert sorted(path.name for path in store.glob(".tcae/leases/*.json")) == ["7-0.0.json"]  # the leader's last word


def test_machines_under_torchrun_fill_one_store(broken_photos, one, tmp_path, start_tcae):
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    torchrun = ("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d")
    torchrun = (*torchrun, "--rdzv-endpoint", endpoint, "--rdzv-id", "mine:3", "--local-addr", "127.0.0.1")
    store = tmp_path / "store.zarr"
    machines = [start_tcae(broken_photos, store, "--max-failures", "3", launcher=torchrun) for _ in range(2)]
    codes, printed, said = finish(machines)

    assert codes == [0, 0], said
    assert "".join(printed).count("is complete: 237 rows ok, 3 failed") == 1
    assert "".join(printed).count("this process has done its part") == 1
    assert_same_store(store, one)
    [claim] = store.glob(".tcae/leases/*.json")
    assert claim.name.startswith("mine_3-")


def start_two(start_tcae, source: Path, store: Path) -> list[Run]:
    """Two ranks whose leases end after two seconds, without a launcher that would end one with the other."""
    short = "from tcae_cli.store import lease; lease._STALE_S, lease._HEARTBEAT_S = 2.0, 0.2"
    launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "job-master-0"}
    return [
        start_tcae(source, store, "--workers", "0", program=f"{short}; {COMMAND}", environment=launch | {"RANK": rank})
        for rank in "01"
    ]


def test_a_rank_that_stands_still_is_taken_over_and_gives_up_without_harm(broken_photos, one, tmp_path, start_tcae):
    store = tmp_path / "store.zarr"
    ranks = start_two(start_tcae, broken_photos, store)
    wait_for_claims(store, 1)
    ranks[1].send_signal(signal.SIGSTOP)
    printed, said = ranks[0].communicate(timeout=120)
    assert ranks[0].returncode == 3 and "is complete: 237 rows ok, 3 failed" in printed, said
    assert "rank 0 takes over shard" in said
    before = files_of(store)
    ranks[1].send_signal(signal.SIGCONT)
    printed, said = ranks[1].communicate(timeout=120)

    assert ranks[1].returncode == 0 and "this process has done its part" in printed, said
    after = files_of(store)
    # Its lease is gone, and what it was writing when it was stopped, such as its claim under a temporary name.
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} <= {
        name for name in before if name.startswith((".tcae/leases/", ".tcae/part/"))
    }
    assert_same_store(store, one)


def wait_for_claims(store: Path, rank: int) -> None:
    """Wait until a rank has begun a shard."""
    patience_ends_at = time.monotonic() + 60
    while not any(json.loads(path.read_text())["member"] == str(rank) for path in store.glob(".tcae/claims/*.json")):
        assert time.monotonic() < patience_ends_at
        time.sleep(0.002)


@pytest.mark.parametrize("order", [(2, 0, 1), (0, 1, 2)])
def test_parts_one_after_the_other_fill_one_store(broken_photos, one, tmp_path, encode, order):
    store = tmp_path / "store.zarr"
    reports = [encode(broken_photos, store, num_parts=3, part=part) for part in order]

    assert [report.num_encoded_now for report in reports] == [80, 80, 80]
    assert [report.decides for report in reports] == [False, False, True]
    assert [report.exit_code for report in reports] == [0, 0, 3]
    assert_same_store(store, one)


def test_parts_that_start_together_make_one_store_and_one_of_them_decides(broken_photos, one, tmp_path, start_tcae):
    store = tmp_path / "store.zarr"
    parts = [start_tcae(broken_photos, store, "--num-parts", "3", "--part", part, "--workers", "0") for part in "012"]
    codes, printed, said = finish(parts)

    assert sorted(codes) == [0, 0, 3], said
    assert "".join(printed).count("is complete: 237 rows ok, 3 failed") == 1
    assert "is complete" in printed[codes.index(3)]
    assert_same_store(store, one)


def test_a_part_may_have_ranks_of_its_own(broken_photos, one, tmp_path, encode, encode_as_ranks):
    store = tmp_path / "store.zarr"
    ranks = encode_as_ranks(2, broken_photos, store, num_parts=2, part=1)
    assert [(rank.num_encoded_now, rank.decides, rank.exit_code) for rank in ranks] == [(64, False, 0), (48, False, 0)]

    report = encode(broken_photos, store, num_parts=2, part=0)
    assert (report.num_encoded_now, report.decides, report.exit_code) == (128, True, 3)
    assert_same_store(store, one)


def test_a_part_at_work_keeps_out_what_does_not_go_with_it_and_is_gone_on_with_when_killed(
    broken_photos, one, tmp_path, encode, start_tcae
):
    store = tmp_path / "store.zarr"
    part = start_tcae(broken_photos, store, "--num-parts", "2", "--part", "1", "--batch-size", "1", "--workers", "0")
    wait_for_commits(store, 1)
    part.send_signal(signal.SIGSTOP)  # no rank of it ends meanwhile
    for options, words in [
        ({}, rf"being written by process {part.pid} on .*; wait for it to end, or stop it"),
        ({"num_parts": 3}, rf"being written by process {part.pid} on .*; wait for it to end, or stop it"),
        ({"num_parts": 2, "part": 1}, rf"being written by process {part.pid} on .*; wait for it to end, or stop it"),
        ({"num_parts": 2, "dtype": "float32"}, r"it was made with --dtype float16, not float32; repeat the command it"),
    ]:
        with pytest.raises(StoreError, match=words):
            encode(broken_photos, store, **{"batch_size": 1} | options)
    assert encode(broken_photos, store, num_parts=2, part=0, batch_size=1).num_encoded_now == 128
    part.kill()
    part.communicate()

    before = committed(store)
    report = encode(broken_photos, store, num_parts=2, part=1, batch_size=1)
    assert 0 < report.num_encoded_now == 240 - 16 * len(before)
    assert before.items() <= committed(store).items()
    encode(broken_photos, tmp_path / "one.zarr", batch_size=1)
    assert_same_store(store, tmp_path / "one.zarr")


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"dtype": "float32"}, "cannot be continued: it was made with --dtype float16, not float32"),
        ({"source": "broken_photos"}, "was given other images by another part meanwhile; give all parts one source"),
    ],
)
def test_of_parts_that_make_one_store_in_different_ways_the_second_is_refused(
    photos, tmp_path, encode, monkeypatch, request, others, words
):
    store, create, source = tmp_path / "store.zarr", encode_job.create_store, photos
    if "source" in others:
        source = request.getfixturevalue(others["source"])

    def come_second(folder, spec) -> StoreHandle:
        monkeypatch.setattr(encode_job, "create_store", create)
        encode(photos, store, num_parts=2, part=0)
        return create(folder, spec)

    monkeypatch.setattr(encode_job, "create_store", come_second)
    with pytest.raises(StoreError, match=words):
        encode(**{"store": store, "num_parts": 2, "part": 1} | others | {"source": source})
    encode(photos, store, num_parts=2, part=1)
    encode(photos, tmp_path / "one.zarr")
    assert_same_store(store, tmp_path / "one.zarr")


def test_rows_that_another_part_appends_while_a_store_is_reopened_stay(many_photos, tmp_path, encode, monkeypatch):
    source, store, reopen = tmp_path / "photos", tmp_path / "store.zarr", encode_job.reopen_unless_whole
    shutil.copytree(many_photos, source, ignore=lambda _, names: sorted(names)[40:])
    encode(source, store)
    encode(source, tmp_path / "one.zarr")
    (store / "latents" / "c.1.0.0.0").unlink()  # so that the store is reopened, by part 1 that owns this shard

    def come_first(opened: StoreHandle) -> None:
        monkeypatch.setattr(encode_job, "reopen_unless_whole", reopen)
        for path in sorted(many_photos.iterdir())[40:60]:
            shutil.copy(path, source)
        encode(source, store, num_parts=2, part=0, append=True)
        reopen(opened)

    monkeypatch.setattr(encode_job, "reopen_unless_whole", come_first)
    encode(source, store, num_parts=2, part=1)
    encode(source, tmp_path / "one.zarr", append=True)
    assert len(LatentStore(store)) == 60
    assert_same_store(store, tmp_path / "one.zarr")


def test_of_parts_that_append_different_images_the_second_is_refused(many_photos, tmp_path, encode, monkeypatch):
    source, store, append = tmp_path / "photos", tmp_path / "store.zarr", encode_job.open_store_source
    shutil.copytree(many_photos, source, ignore=lambda _, names: sorted(names)[40:])
    encode(source, store)
    new = sorted(many_photos.iterdir())[40:60]
    for path in new[1::2]:
        shutil.copy(path, source)

    def come_second(*arguments) -> Source:
        monkeypatch.setattr(encode_job, "open_store_source", append)
        opened = append(*arguments)
        for path in new[::2]:
            shutil.copy(path, source)
        encode(source, store, num_parts=2, part=0, append=True)
        return opened

    monkeypatch.setattr(encode_job, "open_store_source", come_second)
    with pytest.raises(StoreError, match="was given other images by another part meanwhile"):
        encode(source, store, num_parts=2, part=1, append=True)
    encode(source, store, num_parts=2, part=1, append=True)
    assert LatentStore(store).keys(range(40, 60)) == [path.name for path in new]
    assert LatentStore(store).ok_rows.size == 60


@pytest.mark.parametrize("part", ["3", "-1"])
def test_a_part_that_there_is_not_is_wrong_use(photos, tmp_path, capsys, part):
    command = ["encode-dataset", str(photos), str(tmp_path / "store.zarr"), "--num-parts", "3", "--part", part]
    assert _run(command) == 2
    said = capsys.readouterr().err
    assert (
        "--part 3 of --num-parts 3: parts are numbered from 0; correct it" in said or "-1 is not in the range" in said
    )
    assert not (tmp_path / "store.zarr").exists()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_parts_append_rows_and_try_failed_ones_again(many_photos, broken_photos, tmp_path, encode, order):
    source, store = tmp_path / "photos", tmp_path / "store.zarr"
    shutil.copytree(broken_photos, source, ignore=lambda _, names: sorted(names)[150:])
    encode(source, store)
    shutil.copytree(many_photos, source, dirs_exist_ok=True)  # the broken ones have other sizes now

    with pytest.raises(StoreError, match=r"90 new .*2 changed"):
        encode(source, store, num_parts=2)
    reports = [encode(source, store, num_parts=2, part=part, append=True) for part in order]
    assert sum(report.num_encoded_now for report in reports) == 90
    assert [report.decides for report in reports] == [False, True]
    assert LatentStore(store).ok_rows.size == 238


def test_parts_try_failed_rows_again(many_photos, tmp_path, encode):
    source, store = tmp_path / "photos", tmp_path / "store.zarr"
    shutil.copytree(many_photos, source)
    names = sorted(path.name for path in source.iterdir())
    for row in (3, 17):
        (source / names[row]).write_bytes(b"\0" * (source / names[row]).stat().st_size)
    encode(source, store)
    for row in (3, 17):
        shutil.copy(many_photos / names[row], source / names[row])

    first, second = (encode(source, store, num_parts=2, part=part, retry_failed=True) for part in (1, 0))
    assert (first.num_encoded_now, second.num_encoded_now) == (1, 1)
    assert (second.complete, second.num_ok, second.num_failed) == (True, 240, 0)
    encode(many_photos, tmp_path / "whole.zarr")
    assert_same_arrays(store, tmp_path / "whole.zarr")
