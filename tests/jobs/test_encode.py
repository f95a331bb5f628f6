"""`tcae encode-dataset`: what a store holds afterwards, whatever happened on the way."""

import json
import shutil
import signal
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from PIL import Image

from tcae_cli import __version__
from tcae_cli.autoencoders.by_name import load_autoencoder
from tcae_cli.errors import DeviceError, NotFoundError, SourceError, StoreError, UsageError
from tcae_cli.jobs import encode_settings
from tcae_cli.jobs.pipeline import Stage, run_pipeline
from tcae_cli.reports.progress import Silent
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.store.reader import LatentStore

from ..store_contents import assert_same_store, attributes_of, wait_for_commits

TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")


def broken_copy(photos: Path, target: Path, *names: str) -> Path:
    """The photographs, some of them cut short."""
    shutil.copytree(photos, target)
    for name in names:
        (target / name).write_bytes((photos / name).read_bytes()[:700])
    return target


def test_a_store_holds_the_latents_the_labels_and_the_names_of_its_images(photos, tmp_path, encode, small_checkpoint):
    report = encode(photos, tmp_path / "store.zarr")

    assert (report.num_rows, report.num_ok, report.num_failed, report.exit_code) == (24, 24, 0, 0)
    store = LatentStore(tmp_path / "store.zarr")
    assert store.keys([0, 8, 23]) == ["animal/0.jpg", "person/0.jpg", "thing/7.jpg"]
    assert store.labels().tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert store.spec.source.class_names == ["animal", "person", "thing"]
    with Image.open(photos / "person" / "0.jpg") as picture:  # 96 x 72: the short side to 64, the centre of the long
        resized = picture.resize((85, 64), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(resized)[:, 10:74]).permute(2, 0, 1)[None] / 127.5 - 1
    expected = load_autoencoder(str(small_checkpoint)).encode(pixels)
    assert torch.allclose(torch.from_numpy(store.latents([8])).float(), expected, atol=0.03)


def test_the_summary_names_the_slowest_stage(photos, tmp_path, encode):
    report = encode(photos, tmp_path / "store.zarr")

    assert report.stage_seconds.keys() == {"read", "encode", "pack", "write"}
    assert all(seconds > 0 for seconds in report.stage_seconds.values())
    assert report.stage_seconds[report.slowest_stage] == max(report.stage_seconds.values())
    assert max(report.stage_seconds.values()) < report.elapsed_s and 0 < report.startup_s < report.elapsed_s
    assert report.bytes_on_disk > 24 * 8 * 4


def test_repeating_the_command_does_no_work(photos, tmp_path, encode):
    encode(photos, tmp_path / "store.zarr")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store.zarr").rglob("c.*")}

    report = encode(photos, tmp_path / "store.zarr")
    assert report.num_encoded_now == 0 and report.complete and report.num_ok == 24
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store.zarr").rglob("c.*")} == before


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on_and_equals_one_that_was_not_stopped(many_photos, tmp_path, encode, start_tcae, how):
    run = start_tcae(many_photos, tmp_path / "stopped.zarr", "--batch-size", "2")
    wait_for_commits(tmp_path / "stopped.zarr", 3)
    run.send_signal(how)
    _, stderr = run.communicate(timeout=60)
    if how == signal.SIGINT:
        assert run.returncode == 130, stderr
        assert stderr.endswith(
            "Interrupted. Finished work is kept: repeat the command to resume "
            "(train and finetune: with --resume; eval starts again).\n"
        )
    committed = len(list((tmp_path / "stopped.zarr").glob(".tcae/commits/*.json")))
    assert committed < 15

    report = encode(many_photos, tmp_path / "stopped.zarr", batch_size=2)
    assert report.num_encoded_now == 240 - 16 * committed
    encode(many_photos, tmp_path / "whole.zarr", batch_size=2)
    assert_same_store(tmp_path / "stopped.zarr", tmp_path / "whole.zarr")


def test_two_ranks_with_failures_write_the_same_store_as_one_process_and_one_says_that_too_many_failed(
    photos, tmp_path, encode, start_tcae
):
    source = broken_copy(photos, tmp_path / "photos", "thing/1.jpg", "thing/5.jpg")  # rows 17 and 21: rank 1's
    launch = start_tcae(source, tmp_path / "two.zarr", "--max-failures", "1", "--workers", "0", launcher=TORCHRUN)
    stdout, stderr = launch.communicate(timeout=120)

    assert launch.returncode != 0
    assert stdout.count("is complete: 22 rows ok, 2 failed") == 1
    assert stdout.count("more images failed than --max-failures allows") == 1
    assert "exitcode  : 3" in stderr and "exitcode  : 1 " not in stderr
    assert encode(source, tmp_path / "one.zarr", max_failures="2").exit_code == 0
    assert_same_store(tmp_path / "one.zarr", tmp_path / "two.zarr")


def test_a_rank_that_fails_ends_the_launch_with_one_sentence(tmp_path, start_tcae):
    launch = start_tcae(tmp_path / "nowhere", tmp_path / "out.zarr", launcher=TORCHRUN)
    _, stderr = launch.communicate(timeout=120)

    assert launch.returncode != 0
    said = [line for line in stderr.splitlines() if line.startswith("Error: ")]
    assert len([line for line in said if "nowhere does not exist" in line]) == 1
    assert all("nowhere does not exist" in line or "rank 0 has stopped" in line for line in said)
    assert not list((tmp_path / "out.zarr").glob("zarr.json"))


def test_unreadable_images_cost_their_rows_and_are_listed(photos, tmp_path, encode):
    source = broken_copy(photos, tmp_path / "photos", "animal/3.jpg", "thing/0.jpg")
    (source / "person" / "2.jpg").write_bytes(b"")
    report = encode(source, tmp_path / "store.zarr")
    encode(photos, tmp_path / "whole.zarr")

    assert (report.num_ok, report.num_failed) == (21, 3)
    assert [(failure.row, failure.path) for failure in report.failures] == [
        (3, "animal/3.jpg"),
        (10, "person/2.jpg"),
        (16, "thing/0.jpg"),
    ]
    assert all(failure.stage == "decode" and failure.error for failure in report.failures)
    store, whole = LatentStore(tmp_path / "store.zarr"), LatentStore(tmp_path / "whole.zarr")
    assert np.isnan(store.latents([3, 10, 16])).all()
    assert np.array_equal(store.latents(store.ok_rows), whole.latents(store.ok_rows))


@pytest.mark.parametrize(("allowed", "exit_code"), [("1%", 3), ("2", 3), ("3", 0), ("20%", 0)])
def test_more_failures_than_allowed_exit_with_3(photos, tmp_path, encode, allowed, exit_code):
    source = broken_copy(photos, tmp_path / "photos", "animal/3.jpg", "thing/0.jpg", "thing/1.jpg")

    assert encode(source, tmp_path / "store.zarr", max_failures=allowed).exit_code == exit_code
    assert encode(source, tmp_path / "store.zarr", max_failures=allowed).exit_code == exit_code  # repeated too


def test_it_stops_when_most_of_the_first_images_fail(many_photos, tmp_path, encode):
    names = [path.name for path in sorted(many_photos.iterdir())]
    source = broken_copy(many_photos, tmp_path / "photos", *names[:150])

    for allowed in ("1%", "100", "45%"):
        with pytest.raises(SourceError, match=r"of the first 1\d\d images failed, \d\d-\d\.jpg because: .*; put the"):
            encode(source, tmp_path / f"{allowed}.zarr", max_failures=allowed)
        assert 0 < len(list((tmp_path / f"{allowed}.zarr" / ".tcae" / "commits").iterdir())) < 10


@pytest.mark.parametrize(("allowed", "exit_code"), [("100%", 0), ("150", 0), ("149", 3)])
def test_it_does_not_stop_where_most_may_fail(many_photos, tmp_path, encode, allowed, exit_code):
    names = [path.name for path in sorted(many_photos.iterdir())]
    source = broken_copy(many_photos, tmp_path / "photos", *names[:75], *names[-75:])

    report = encode(source, tmp_path / "store.zarr", max_failures=allowed)
    assert (report.num_failed, report.complete, report.exit_code) == (150, True, exit_code)


def test_latents_that_are_not_finite_fail_and_say_so(photos, tmp_path, encode, monkeypatch):
    from tcae_cli.model.tcae import TCAE

    honest = TCAE.encode

    def encode_badly(self, images):
        latents = honest(self, images)
        if len(latents) > 1:  # in float32, again alone, the first is right
            latents[0] = float("nan")
        latents[-1, 0, 0, 0] = 1e6 if len(latents) > 1 else latents[-1, 0, 0, 0]
        return latents

    encode(photos, tmp_path / "whole.zarr")
    monkeypatch.setattr(TCAE, "encode", encode_badly)
    report = encode(photos, tmp_path / "store.zarr")
    assert report.num_failed == 0  # each was encoded once more, alone
    whole, store = (LatentStore(tmp_path / name).latents(range(24)) for name in ("whole.zarr", "store.zarr"))
    assert np.allclose(whole.astype(np.float32), store.astype(np.float32), atol=2e-3)

    monkeypatch.setattr(TCAE, "encode", lambda self, images: honest(self, images) * 1e7)
    report = encode(photos, tmp_path / "large.zarr")
    assert report.num_failed == 24
    assert "beyond float16; encode into another store with --dtype float32" in report.failures[0].error
    assert encode(photos, tmp_path / "float32.zarr", dtype="float32").num_ok == 24


def test_a_path_that_is_something_else_is_refused_and_left_alone(photos, tmp_path, encode):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "important.txt").write_text("mine")
    (tmp_path / "file.zarr").write_text("mine")
    zarr.create_group(tmp_path / "other.zarr")

    for name, words in [
        ("notes", "is not a store of latents and is not empty; name another path"),
        ("file.zarr", "exists and is not a store of latents; name another path"),
        ("other.zarr", "is a Zarr group of something else"),
    ]:
        with pytest.raises(StoreError, match=words):
            encode(photos, tmp_path / name)
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["important.txt"]
    assert [path.name for path in (tmp_path / "other.zarr").iterdir()] == ["zarr.json"]


def test_an_empty_folder_may_become_a_store(photos, tmp_path, encode):
    (tmp_path / "store.zarr").mkdir()
    assert encode(photos, tmp_path / "store.zarr").num_ok == 24


def test_sources_that_cannot_work_leave_nothing_behind(tmp_path, encode):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match=r"nowhere does not exist; give tar shards \(\.tar, "):
        encode(tmp_path / "nowhere", tmp_path / "store.zarr")
    with pytest.raises(SourceError, match="empty is empty; images are files ending in"):
        encode(tmp_path / "empty", tmp_path / "store.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_size_the_downsampling_does_not_divide_is_refused_with_the_nearest_that_works(photos, tmp_path, encode):
    with pytest.raises(UsageError, match=r"--size 100 is not a multiple of 32, a latent's pixels in .*small.*; try 96"):
        encode(photos, tmp_path / "store.zarr", sizes=(100,))
    assert encode(photos, tmp_path / "store.zarr", sizes=(96,)).num_ok == 24
    assert LatentStore(tmp_path / "store.zarr").sample_shape == (8, 3, 3)


@pytest.fixture
def fits(monkeypatch):
    """Lets only so many images at once, or fewer after so many calls, fit into the memory of the device."""
    from tcae_cli.model.tcae import TCAE

    honest = TCAE.encode

    def limit(most: int, after: int = 0) -> None:
        calls = iter(range(after))

        def encode(self, images):
            if next(calls, None) is None and len(images) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return honest(self, images)

        monkeypatch.setattr(TCAE, "encode", encode)

    return limit


def test_where_no_row_is_committed_the_smaller_batch_that_is_advised_is_taken(photos, tmp_path, encode, fits):
    fits(4)
    for tried, advised in ((None, 8), (8, 4)):
        with pytest.raises(DeviceError, match=f"with --batch-size {2 * advised}; try --batch-size {advised}$"):
            encode(photos, tmp_path / "store.zarr", batch_size=tried or 64)
    said: list[str] = []
    assert encode(photos, tmp_path / "store.zarr", Saying(said), batch_size=4).num_ok == 24
    assert f"{tmp_path / 'store.zarr'} has no committed row, so its batches may be of 4 now" in said

    encode(photos, tmp_path / "fresh.zarr", batch_size=4)
    assert_same_store(tmp_path / "store.zarr", tmp_path / "fresh.zarr")
    with pytest.raises(StoreError, match="made with --batch-size 4, not 2"):
        encode(photos, tmp_path / "store.zarr", batch_size=2)


def test_where_rows_are_committed_the_same_batch_or_another_store_is_advised(many_photos, tmp_path, encode, fits):
    store = tmp_path / "store.zarr"
    fits(4, after=torch.get_num_threads() + 3)
    with pytest.raises(
        DeviceError, match=rf"{store} can only be continued with the same batch size: .* and repeat, or"
    ):
        encode(many_photos, store)
    fits(4)
    assert encode(many_photos, tmp_path / "another.zarr", batch_size=4).num_ok == 240
    fits(16)
    assert encode(many_photos, store).num_ok == 240


def test_a_part_keeps_its_batch_size_since_others_may_be_at_work(photos, tmp_path, encode, fits):
    part = {"num_parts": 2, "part": 1}
    fits(8)
    with pytest.raises(DeviceError, match=r"the same batch size: .* or encode into another store with --batch-size 8$"):
        encode(photos, tmp_path / "store.zarr", **part)
    with pytest.raises(StoreError, match="made with --batch-size 16, not 8"):
        encode(photos, tmp_path / "store.zarr", batch_size=8, **part)
    assert encode(photos, tmp_path / "another.zarr", batch_size=8, **part).num_encoded_now == 8


class Saying(Silent):
    """Keeps the sentences."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def say(self, sentence: str) -> None:
        self._said.append(sentence)


def test_captions_and_tar_shards_are_stored_too(photos, tmp_path, encode):
    for number in range(2):
        with subprocess.Popen(
            ["tar", "-cf", tmp_path / f"{number}.tar", "-C", tmp_path, "--files-from=-"], stdin=-1
        ) as tar:
            for name in ("a", "b"):
                shutil.copy(photos / "thing" / f"{number}.jpg", tmp_path / f"{name}{number}.jpg")
                (tmp_path / f"{name}{number}.json").write_text(json.dumps({"caption": f"caption {name}{number}"}))
                (tmp_path / f"{name}{number}.cls").write_text("7")
                tar.stdin.write("".join(f"{name}{number}.{kind}\n" for kind in ("jpg", "json", "cls")).encode())
    encode(f"{tmp_path}/{{0..1}}.tar", tmp_path / "store.zarr")

    store = LatentStore(tmp_path / "store.zarr")
    assert store.captions([0, 3]) == ["caption a0", "caption b1"]
    assert store.labels().tolist() == [7, 7, 7, 7]


def test_an_error_while_writing_ends_the_run_and_keeps_what_was_written():
    written = []

    def write(item: int) -> None:
        if item == 3:
            raise OSError("disk full")
        written.append(item)

    with pytest.raises(OSError, match="disk full"):
        run_pipeline(range(10), [Stage(lambda item: item)], write)
    assert written[:3] == [0, 1, 2]


def test_progress_counts_rows_done_before_and_failures(many_photos, tmp_path, encode):
    class Recording(Silent):
        def __init__(self):
            self.starts, self.done, self.failed = [], 0, 0

        def start(self, task, total, done=0, unit="images"):
            self.starts.append((task, total, done, unit))

        def advance(self, count=1, failed=0, note=""):
            self.done += count
            self.failed += failed
            if self.done >= 100 and len(self.starts) == 1:
                raise KeyboardInterrupt

    progress = Recording()
    source = broken_copy(many_photos, tmp_path / "photos", "00-1.jpg")
    with pytest.raises(KeyboardInterrupt):
        encode(source, tmp_path / "store.zarr", progress)
    encode(source, tmp_path / "store.zarr", progress)

    assert progress.starts[0] == ("encode", 240, 0, "images")
    task, total, done, _ = progress.starts[1]
    assert (task, total) == ("encode", 240) and done >= 80
    assert progress.failed == 1


def test_a_store_is_opened_once_and_its_root_read_again_only_where_others_may_have_changed_it(
    photos, tmp_path, encode, monkeypatch
):
    read, names = LocalFolder.read, []
    monkeypatch.setattr(LocalFolder, "read", lambda folder, name: names.append(name) or read(folder, name))

    encode(photos, tmp_path / "store.zarr")
    # Looked for before and after the claim; made; at the beginning and the end of finishing; for the report.
    assert names.count("zarr.json") == 6
    names.clear()
    encode(photos, tmp_path / "store.zarr")
    # Looked for and opened; after the scan of the source; before arrays are fitted; for the report.
    assert names.count("zarr.json") == 5


def test_tcae_runs_from_a_checkout_that_is_not_installed(encode, photos, tmp_path, monkeypatch):
    def version_of_installed(name):
        if name == "tcae":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(encode_settings, "version", version_of_installed)
    encode(photos, tmp_path / "out.zarr")

    assert attributes_of(tmp_path / "out.zarr")["tool_versions"]["tcae"] == __version__
