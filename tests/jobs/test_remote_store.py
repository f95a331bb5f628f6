"""A store in a bucket holds what a local one does, and keeps the same promises."""

import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import s3fs
import torch
from fsspec.config import conf

from tcae_cli.cli import _run
from tcae_cli.errors import StoreError
from tcae_cli.jobs.decode import decode_store
from tcae_cli.reports.decode import DecodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.runtime.folder import open_folder
from tcae_cli.store.commit import reopen_failed
from tcae_cli.store.dataset import LatentDataset
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.reader import LatentStore

from ..store_contents import assert_same_arrays, assert_same_store
from .wire import Wire, refusing_server


@pytest.fixture(scope="module")
def local_store(photos, encode, tmp_path_factory) -> Path:
    """The photographs in a local store."""
    path = tmp_path_factory.mktemp("local") / "store.zarr"
    encode(photos, path)
    return path


@pytest.fixture(scope="module")
def some_photos(many_photos, tmp_path_factory) -> Path:
    """128 photographs: eight shards."""
    folder = tmp_path_factory.mktemp("some")
    for path in sorted(many_photos.iterdir())[:128]:
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def store(photos, encode, object_store) -> str:
    """The photographs in a store in a bucket, to be read."""
    s3fs.S3FileSystem().mkdir("shared")
    encode(photos, "s3://shared/store.zarr")
    return "s3://shared/store.zarr"


def objects(uri: str) -> dict[str, tuple[str, str]]:
    """What tells one writing of an object from another, by name below a URI."""
    found = s3fs.S3FileSystem(use_listings_cache=False).find(uri, detail=True)
    files = {name: entry for name, entry in found.items() if entry["type"] == "file"}
    return {name: (entry["ETag"], str(entry["LastModified"])) for name, entry in files.items()}


def wait_for(uri: str, count: int) -> None:
    patience_ends_at = time.monotonic() + 60
    while len(objects(uri)) < count:
        assert time.monotonic() < patience_ends_at
        time.sleep(0.05)  # a look takes the server its time


def put_all(folder: Path, uri: str) -> None:
    s3fs.S3FileSystem().put(f"{folder}/", f"{uri}/", recursive=True)


def test_it_equals_a_local_store(store, local_store):
    assert_same_store(store, local_store)


@pytest.mark.parametrize("options", [{"dtype": "int8", "flip": True}, {"sizes": (64, 96), "codec": "none"}])
def test_with_any_views_and_dtypes(photos, bucket, tmp_path, encode, options):
    encode(photos, f"{bucket}/store.zarr", **options)
    encode(photos, tmp_path / "store.zarr", **options)
    assert_same_store(f"{bucket}/store.zarr", tmp_path / "store.zarr")


def test_sources_in_a_bucket_give_the_same_rows(photos, bucket, local_store, tmp_path, encode):
    put_all(photos, f"{bucket}/photos")
    encode(f"{bucket}/photos", f"{bucket}/of-folder.zarr", num_workers=1)
    assert_same_arrays(f"{bucket}/of-folder.zarr", local_store)

    (tmp_path / "tars").mkdir()
    for label in ("animal", "thing"):
        with tarfile.open(tmp_path / "tars" / f"{label}.tar", "w") as tar:
            tar.add(photos / label, ".")
    put_all(tmp_path / "tars", f"{bucket}/tars")
    encode(f"{bucket}/tars/{{animal,thing}}.tar", f"{bucket}/of-tars.zarr")
    encode(f"{tmp_path}/tars/{{animal,thing}}.tar", tmp_path / "of-tars.zarr")
    assert_same_arrays(f"{bucket}/of-tars.zarr", tmp_path / "of-tars.zarr")


def test_plain_zarr_reads_it_in_the_bucket(store, local_store):
    script = f"import zarr; print(float(zarr.open_group({store!r}, mode='r')['latents'][5].astype('f8').sum()))"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert float(printed) == LatentStore(local_store).latents([5]).astype("f8").sum()


def test_the_reader_gives_rows_labels_keys_and_statistics(store, local_store):
    there, here = LatentStore(store), LatentStore(local_store)
    assert np.array_equal(there.latents([23, 0, 8]), here.latents([23, 0, 8]))
    assert there.labels().tolist() == here.labels().tolist()
    assert there.keys([0, 23]) == ["animal/0.jpg", "thing/7.jpg"]
    assert there.summaries == here.summaries and there.failures() == []


def test_it_is_decoded_with_its_originals_beside(store, local_store, tmp_path):
    for uri, name in ((store, "there"), (str(local_store), "here")):
        report = decode_store(
            DecodeRequest(store=uri, out_dir=tmp_path / name, rows="6:10", grid=2, device="cpu"), Silent()
        )
        assert report.num_written == 4
    files = [path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*.png")]
    assert len(files) == 5
    assert all((tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes() for name in files)


def test_killed_ranks_keep_others_out_while_one_of_them_lives_and_are_gone_on_with_after(
    many_photos, bucket, tmp_path, encode, start_tcae
):
    there = f"{bucket}/store.zarr"
    places = [{"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_PORT": "1"} for rank in "01"]
    ranks = [
        start_tcae(many_photos, there, "--batch-size", "1", "--workers", "0", environment=place) for place in places
    ]
    wait_for(f"{there}/.tcae/commits", 2)
    ranks[0].send_signal(signal.SIGSTOP)  # it has not ended when the others look
    ranks[1].kill()
    ranks[1].communicate()
    with pytest.raises(StoreError, match=rf"store.zarr is being written by process {ranks[0].pid} on .*; wait for it"):
        encode(many_photos, there, batch_size=1)
    ranks[0].kill()
    ranks[0].communicate()

    committed = objects(f"{there}/.tcae/commits")
    assert 2 <= len(committed) < 15
    report = encode(many_photos, there, batch_size=1)
    assert (report.num_encoded_now, report.complete) == (240 - 16 * len(committed), True)
    assert committed.items() <= objects(f"{there}/.tcae/commits").items()
    encode(many_photos, tmp_path / "store.zarr", batch_size=1)
    assert_same_store(there, tmp_path / "store.zarr")
    assert not objects(f"{there}/.tcae/leases")


def test_repeating_the_command_writes_no_array_again(photos, store, encode):
    before = {name: tags for name, tags in objects(store).items() if "/index/" not in name}
    report = encode(photos, store)
    assert (report.num_encoded_now, report.num_ok, report.complete) == (0, 24, True)
    assert {name: tags for name, tags in objects(store).items() if "/index/" not in name} == before


@pytest.mark.parametrize("lost", [".tcae/commits/000001.json", "latents/c.1.0.0.0", "status/c.1"])
def test_a_shard_counts_while_its_record_and_its_objects_are_there(photos, bucket, local_store, encode, lost):
    encode(photos, f"{bucket}/store.zarr")
    s3fs.S3FileSystem().rm_file(f"{bucket}/store.zarr/{lost}")
    report = encode(photos, f"{bucket}/store.zarr")
    assert (report.num_encoded_now, report.decides) == (8, True)
    assert_same_store(f"{bucket}/store.zarr", local_store)


def test_rows_are_appended_and_failed_ones_tried_again(photos, bucket, local_store, tmp_path, encode):
    source, there = tmp_path / "photos", f"{bucket}/store.zarr"
    shutil.copytree(photos, source, ignore=lambda *_: ["thing"])
    (source / "animal" / "3.jpg").write_bytes(b"\xff" * (photos / "animal" / "3.jpg").stat().st_size)
    assert encode(source, there).num_failed == 1
    shutil.copy(photos / "animal" / "3.jpg", source / "animal" / "3.jpg")
    shutil.copytree(photos / "thing", source / "thing")

    with pytest.raises(StoreError, match=r"8 new .*pass --append to add the new ones as rows"):
        encode(source, there)
    report = encode(source, there, append=True, retry_failed=True)
    assert (report.num_encoded_now, report.num_ok, report.num_failed) == (9, 24, 0)
    assert_same_arrays(there, local_store)


def test_what_is_something_else_is_refused_and_left_alone(photos, bucket, encode):
    s3fs.S3FileSystem().pipe_file(f"{bucket}/notes/important.txt", b"mine")
    with pytest.raises(StoreError, match="notes exists, is not a store of latents and is not empty; name another path"):
        encode(photos, f"{bucket}/notes")
    assert len(objects(bucket)) == 1


def test_a_source_that_cannot_work_leaves_nothing_in_the_bucket(bucket, tmp_path, encode):
    with pytest.raises(Exception, match="nowhere does not exist"):
        encode(tmp_path / "nowhere", f"{bucket}/store.zarr")
    assert objects(bucket) == {}


def run_cli(capsys, *words: str) -> tuple[int, str]:
    """The exit code of a command and what it said on stderr."""
    code = _run(list(words))
    return code, capsys.readouterr().err


def test_a_bucket_that_is_not_there_is_one_sentence(photos, object_store, capsys, tmp_path):
    code, said = run_cli(capsys, "encode-dataset", str(photos), "s3://no-such-bucket/store.zarr", "--device", "cpu")
    assert (code, said.count("\n")) == (1, 1)
    assert re.match(r"Error: s3://no-such-bucket/store.zarr/\S+ cannot be written: there is no such bucket; ", said)
    code, said = run_cli(capsys, "decode", "s3://no-such-bucket/store.zarr", str(tmp_path / "out"))
    assert (code, said.count("\n")) == (1, 1)
    assert "s3://no-such-bucket/store.zarr is not a store of latents" in said


@pytest.mark.parametrize("verbs", [{"PUT"}, {"GET", "HEAD", "PUT"}])
def test_permission_that_is_missing_is_one_sentence(photos, object_store, monkeypatch, capsys, verbs):
    with refusing_server(verbs) as url:
        monkeypatch.setitem(conf, "s3", {"endpoint_url": url})
        code, said = run_cli(capsys, "encode-dataset", str(photos), "s3://theirs/store.zarr", "--device", "cpu")
    assert (code, said.count("\n")) == (1, 1)
    assert re.match(r"Error: s3://theirs/store.zarr/\S+ cannot be (written: Access Denied|read: Forbidden); ", said)


def test_a_network_that_goes_away_is_one_sentence_and_the_same_command_goes_on(
    some_photos, object_store, bucket, tmp_path, encode, start_tcae
):
    there = f"{bucket}/store.zarr"
    with Wire(object_store) as wire:
        environment = {"AWS_ENDPOINT_URL": wire.url, "AWS_MAX_ATTEMPTS": "1"}
        run = start_tcae(some_photos, there, "--batch-size", "1", "--workers", "0", environment=environment)
        wait_for(f"{there}/.tcae/commits", 2)
        wire.cut()
        _, said = run.communicate(timeout=60)
    assert (run.returncode, said.count("Error: "), "Traceback" in said) == (1, 1, False)
    assert re.search(
        r"^Error: s3://\S+ cannot be (written|read): .+; (what is complete stays|check your perm)", said, re.M
    )

    committed = objects(f"{there}/.tcae/commits")
    assert 2 <= len(committed) < 8
    assert encode(some_photos, there, batch_size=1).num_encoded_now == 128 - 16 * len(committed)
    assert committed.items() <= objects(f"{there}/.tcae/commits").items()
    encode(some_photos, tmp_path / "store.zarr", batch_size=1)
    assert_same_store(there, tmp_path / "store.zarr")


@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_an_open_reader_gives_each_row_its_own_latents_when_shards_are_replaced(
    photos, encode, bucket, tmp_path, codec
):
    source, uri = shutil.copytree(photos, tmp_path / "photos"), f"{bucket}/store.zarr"
    (source / "animal/3.jpg").write_bytes((photos / "animal/3.jpg").read_bytes()[:700])
    encode(source, uri, codec=codec)
    dataset = LatentDataset(uri, normalise="none")
    rows = range(len(dataset))
    before = dataset[rows]["latents"]

    shutil.copy(photos / "animal/3.jpg", source / "animal/3.jpg")
    encode(source, uri, codec=codec, retry_failed=True)
    assert len(LatentStore(uri).ok_rows) == len(dataset) + 1
    assert torch.equal(dataset[rows]["latents"], before)
    assert all(torch.equal(dataset[row]["latents"], before[row]) for row in rows)


def test_a_store_that_is_being_written_is_read_as_it_is_now(photos, encode, bucket, tmp_path):
    source, uri = shutil.copytree(photos, tmp_path / "photos"), f"{bucket}/store.zarr"
    (source / "animal/3.jpg").write_bytes((photos / "animal/3.jpg").read_bytes()[:700])
    encode(source, uri, codec="none")
    store = StoreHandle(open_folder(uri))
    reopen_failed(store, range(store.spec.num_shards))  # as --retry-failed begins
    with pytest.warns(UserWarning, match="is not complete"):
        reader = LatentStore(uri)
    rows = reader.ok_rows
    before = reader.latents(rows)

    shutil.copy(photos / "animal/3.jpg", source / "animal/3.jpg")
    encode(source, uri, codec="none", retry_failed=True)
    assert np.array_equal(reader.latents(rows), before)
