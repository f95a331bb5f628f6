"""`tcae info`: what a store is, complete or not."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tcae_cli.errors import StoreError
from tcae_cli.jobs.info import describe_store
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.store import InfoReport, InfoRequest
from tcae_cli.runtime.processes import process_space
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.record import record_name

from ..store_contents import change_metadata


def info(store: Path | str) -> InfoReport:
    return describe_store(InfoRequest(store=str(store)), Silent())


@pytest.fixture
def source(photos, tmp_path) -> Path:
    """24 photographs of which one is damaged, and three are one."""
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / "animal" / "1.jpg").write_bytes(b"not an image")
    shutil.copy(folder / "animal" / "0.jpg", folder / "person" / "7.jpg")
    shutil.copy(folder / "animal" / "0.jpg", folder / "thing" / "7.jpg")
    return folder


def make_incomplete(store: Path) -> None:
    (store / record_name(1)).unlink()
    (store / "status" / "c.1").unlink()
    incomplete = {"complete": False, "statistics": None}
    change_metadata(store / "zarr.json", lambda root: root["attributes"].update(incomplete))


def test_a_complete_store_says_what_it_is(source, tmp_path, encode, small_checkpoint):
    encode(source, tmp_path / "store.zarr", flip=True, max_failures="5%")
    report = info(tmp_path / "store.zarr")

    assert report.complete and report.writers == []
    assert report.rows == {"ok": 23, "failed": 1, "pending": 0, "encoded_again_in_float32": 0}
    assert (report.num_shards, report.num_shards_committed, report.num_shards_damaged) == (2, 2, 0)
    assert report.views["latents_flip"] == {"size": 64, "flip": True, "shape": [8, 2, 2]}
    assert (report.dtype, report.codec, report.rows_per_shard) == ("float16", "zstd", 16)
    assert report.encoder["name"] == str(small_checkpoint)
    assert report.source["uri"] == str(source) and report.source["class_names"] == ["animal", "person", "thing"]
    assert report.failures_by_stage == {"decode": 1}
    assert report.failures[0].path == "animal/1.jpg" and report.failures[0].row == 1


def test_sizes_are_those_on_the_disk(source, tmp_path, encode):
    encode(source, tmp_path / "store.zarr", codec="none", max_failures="5%")
    report = info(tmp_path / "store.zarr")
    files = [path for path in (tmp_path / "store.zarr").rglob("*") if path.is_file()]

    assert report.bytes_on_disk == sum(path.stat().st_size for path in files)
    assert report.bytes_per_image == report.bytes_on_disk / 23
    assert report.share_of_pixels == report.bytes_on_disk / (23 * 3 * 64 * 64)
    raw = 23 * 8 * 2 * 2 * 2
    assert report.share_of_raw_latents == (raw + 23 * 4 + 2 * (16 * 16 + 4)) / raw  # with checksums and two indexes


def test_duplicates_are_found_by_content(source, tmp_path, encode):
    encode(source, tmp_path / "store.zarr", max_failures="5%")
    assert info(tmp_path / "store.zarr").duplicates == {
        "num_groups": 1,
        "num_rows": 3,
        "keys": [["animal/0.jpg", "person/7.jpg", "thing/7.jpg"]],
    }


def test_statistics_are_those_of_the_latents(photos, tmp_path, encode):
    encode(photos, tmp_path / "store.zarr")
    latents = LatentStore(tmp_path / "store.zarr").latents(range(24)).astype(np.float64)
    found = info(tmp_path / "store.zarr").statistics["latents"]
    assert found["mean"] == pytest.approx(latents.mean())
    assert found["std"] == pytest.approx(latents.std())
    assert found["channel_std_min"] == pytest.approx(latents.std((0, 2, 3)).min())
    assert (found["num_channels"], found["num_nearly_dead"]) == (8, 0)


def test_an_int8_store_says_what_rounding_costs(photos, tmp_path, encode):
    encode(photos, tmp_path / "store.zarr", dtype="int8")
    report = info(tmp_path / "store.zarr")
    found = report.quantisation["latents"]
    assert 0 < found["scale_min"] <= found["scale_max"] and 0 < found["relative_rmse"] < 0.1
    assert found["num_clipped"] >= 0 and report.psnr_int8 == pytest.approx(report.psnr_float32, abs=1)


def test_an_incomplete_store_is_described_from_what_is_committed(photos, tmp_path, encode):
    encode(photos, tmp_path / "store.zarr")
    make_incomplete(tmp_path / "store.zarr")
    report = info(tmp_path / "store.zarr")

    assert not report.complete
    assert report.rows == {"ok": 16, "failed": 0, "pending": 8, "encoded_again_in_float32": 0}
    assert (report.num_shards_committed, report.num_shards) == (1, 2)
    assert report.statistics["latents"]["num_channels"] == 8


def test_shards_that_have_lost_files_are_counted(photos, tmp_path, encode):
    encode(photos, tmp_path / "store.zarr")
    (tmp_path / "store.zarr" / "latents" / "c.1.0.0.0").unlink()
    report = info(tmp_path / "store.zarr")
    assert (report.num_shards_committed, report.num_shards_damaged) == (1, 1)


def test_who_is_at_work_is_named_and_nothing_is_written(photos, tmp_path, encode):
    encode(photos, tmp_path / "store.zarr")
    leases = tmp_path / "store.zarr" / ".tcae" / "leases"
    leases.mkdir(exist_ok=True)
    claim = {"state": "settled", "host": socket.gethostname(), "processes": process_space()}
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name, changes in {
        "here": {"pid": os.getppid()},
        "killed": {"pid": gone.pid},
        "there": {"pid": 7, "host": "another-machine"},
        "silent": {"pid": 8, "host": "another-machine"},
        "done": {"pid": os.getppid(), "state": "done"},
    }.items():
        (leases / f"{name}.0.json").write_text(json.dumps({**claim, "owner": name, **changes}))
    os.utime(leases / "silent.0.json", (1_000_000_000, 1_000_000_000))
    before = sorted(path for path in (tmp_path / "store.zarr").rglob("*"))

    writers = info(tmp_path / "store.zarr").writers
    assert {(claim["host"], claim["pid"]) for claim in writers} == {
        (socket.gethostname(), os.getppid()),
        ("another-machine", 7),
    }
    assert sorted(path for path in (tmp_path / "store.zarr").rglob("*")) == before


def test_a_store_in_which_every_row_failed_has_no_sizes_an_image(tmp_path, encode):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.jpg").write_bytes(b"not an image")
    encode(tmp_path / "photos", tmp_path / "store.zarr")
    report = info(tmp_path / "store.zarr")
    assert (report.bytes_per_image, report.share_of_pixels, report.statistics) == (None, None, {})
    assert report.duplicates == {"num_groups": 0, "num_rows": 0, "keys": []}


def test_a_store_in_an_object_store_is_described(photos, bucket, encode):
    encode(photos, f"{bucket}/store.zarr")
    report = info(f"{bucket}/store.zarr")
    assert report.complete and report.rows["ok"] == 24 and report.bytes_on_disk > 1000


def test_what_cannot_be_read_is_one_sentence(photos, tmp_path, encode):
    with pytest.raises(StoreError, match=r"nowhere\.zarr is not a store of latents"):
        info(tmp_path / "nowhere.zarr")
    encode(photos, tmp_path / "store.zarr")
    (tmp_path / "store.zarr" / "content_hash" / "c.0").write_bytes(b"nonsense")
    (tmp_path / "store.zarr" / "content_hash" / "zarr.json").write_text("{}")
    with pytest.raises(StoreError, match=r"is damaged \(.*\); tcae verify .*store\.zarr says where"):
        info(tmp_path / "store.zarr")


def test_torch_is_not_imported(photos, tmp_path, encode):
    encode(photos, tmp_path / "store.zarr")
    script = "import sys; from tcae_cli.cli import main; sys.argv = ['tcae', *sys.argv[1:]]\ntry: main()\n"
    script += "except SystemExit: print({'torch', 'timm'} & set(sys.modules))"
    command = [sys.executable, "-c", script, "info", str(tmp_path / "store.zarr")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()" and "24 ok" in done.stdout
