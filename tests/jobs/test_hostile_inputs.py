"""Whatever a source holds, and whatever becomes of the workers: a bad image costs its row, by name, and no other."""

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tcae_cli.images import watchdog
from tcae_cli.jobs import encode as encode_job
from tcae_cli.jobs.decode import decode_store
from tcae_cli.reports.decode import DecodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.sources.source import open_index
from tcae_cli.store.reader import LatentStore

from ..store_contents import assert_rows_equal, failures_of, files_of
from .deadly_source import DeadlySource
from .hostile_images import BAD, bomb, file_of, good_images, picture, plain
from .privileges import heeding_permissions

pytestmark = pytest.mark.alone


def put(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder of all of them; the file to vanish is still there."""
    folder = tmp_path / "hostile"
    for name, (data, _) in good_images().items():
        put(folder, name, data)
    put(folder, "bad/truncated.jpg", file_of(picture(20), "JPEG")[:900])
    put(folder, "bad/empty.png", b"")
    put(folder, "bad/page.jpg", b"<html>404</html>")
    put(folder, "bad/bomb.png", bomb())
    put(folder, "bad/secret.png", plain(21)[0])
    put(folder, "bad/vanished.png", plain(22)[0])
    (folder / "bad/secret.png").chmod(0)
    (folder / "bad/leads nowhere.png").symlink_to("nowhere.png")
    (folder / "bad/leads to itself.png").symlink_to("leads to itself.png")
    (folder / "round").symlink_to(".")
    return folder


class Vanishing(Silent):
    """Removes a file between listing and reading."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, task: str, total: int, done: int = 0, unit: str = "images") -> None:
        self._path.unlink()


def decoded_files(store: Path, out: Path) -> list[Path]:
    report = decode_store(DecodeRequest(store=str(store), out_dir=out, device="cpu"), Silent())
    files = [path for path in out.rglob("*") if path.is_file()]
    assert report.num_written == len(files)
    return files


def test_in_a_folder_of_everything_the_bad_fail_by_name_and_the_good_are_what_a_viewer_shows(hostile, tmp_path, encode):
    with heeding_permissions():
        encode(hostile, tmp_path / "store.zarr", Vanishing(hostile / "bad/vanished.png"), max_failures="8")

    store = LatentStore(tmp_path / "store.zarr")
    keys = store.keys(range(len(store)))
    assert len(keys) == len(good_images()) + len(BAD)
    failures = failures_of(tmp_path / "store.zarr")
    assert [(row, path) for row, path, _, _ in failures] == [(keys.index(name), name) for name in sorted(BAD)]
    for _, path, stage, error in failures:
        assert stage == BAD[path][0] and BAD[path][1] in error, (path, error)

    for name, (_, pixels) in good_images().items():
        put(tmp_path / "as seen", name, file_of(pixels))
    for name in BAD:
        put(tmp_path / "as seen", name, plain(0)[0])
    encode(tmp_path / "as seen", tmp_path / "as seen.zarr")
    assert keys == LatentStore(tmp_path / "as seen.zarr").keys(range(len(keys)))
    good = [row for row, key in enumerate(keys) if key not in BAD]
    assert_rows_equal(tmp_path / "store.zarr", tmp_path / "as seen.zarr", good)
    assert np.isnan(store.latents([keys.index(name) for name in BAD])).all()


def test_every_good_row_is_decoded_to_a_file_inside_the_folder_whatever_its_name(hostile, tmp_path, encode):
    encode(hostile, tmp_path / "store.zarr")
    store = LatentStore(tmp_path / "store.zarr")

    files = decoded_files(tmp_path / "store.zarr", tmp_path / "out")
    assert len(files) == len(store.ok_rows)
    names = {str(path.relative_to(tmp_path / "out")) for path in files}
    assert {"a.jpg.png", "a.png.png", "猫/照片.png.png", "new%0Aline.png.png", "caf%5Cxe9.png.png"} <= names


def test_a_source_and_its_classes_may_have_names_that_are_not_utf_8(tmp_path, encode):
    folder = tmp_path / os.fsdecode(b"\xfcbung")
    for number, name in enumerate((b"a", b"caf\xe9")):
        put(folder, f"{os.fsdecode(name)}/0.png", plain(number)[0])
    encode(folder, tmp_path / "store.zarr")
    recorded = LatentStore(tmp_path / "store.zarr").spec.source
    assert recorded.class_names == ["a", r"caf\xe9"] and recorded.uri == rf"{tmp_path}/\xfcbung"
    assert encode(folder, tmp_path / "store.zarr").num_encoded_now == 0  # it is the same source
    put(folder, "b/0.png", plain(2)[0])
    assert encode(folder, tmp_path / "store.zarr", append=True).num_ok == 3
    assert LatentStore(tmp_path / "store.zarr").spec.source.class_names == ["a", r"caf\xe9", "b"]


def test_a_share_or_a_count_decides_between_exit_0_and_3(hostile, tmp_path, encode):
    for name in ("bad/secret.png", "bad/vanished.png"):  # good ones, for a process that may read them
        (hostile / name).unlink()
    for number in range(4):
        put(hostile, f"good {number}.png", plain(number)[0])

    for allowed, exit_code in (("5", 3), ("6", 0), ("20%", 3), ("25%", 0)):
        report = encode(hostile, tmp_path / "store.zarr", max_failures=allowed)
        assert (report.num_rows, report.num_failed, report.exit_code) == (26, 6, exit_code), allowed


def test_the_command_line_lists_what_failed_and_exits_with_3(hostile, tmp_path, start_tcae):
    run = start_tcae(hostile, tmp_path / "store.zarr", "--max-failures", "5")
    stdout, stderr = run.communicate(timeout=120)

    assert run.returncode == 3, stderr
    assert "more images failed than --max-failures allows; the store is complete without them" in stdout
    for name in ("bad/truncated.jpg", "bad/empty.png", "bad/page.jpg", "bad/bomb.png", "bad/leads nowhere.png"):
        (line,) = (line for line in stdout.splitlines() if line.startswith(name))
        assert all(word in line for word in BAD[name])


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> bytes:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path.read_bytes()


def test_damaged_and_hostile_tars_cost_what_is_damaged_and_stay_inside(tmp_path, encode):
    images = [plain(seed)[0] for seed in range(8)]
    twice = [("a.png", images[0]), ("a.png", images[1]), ("b.png", images[2]), ("b.cls", b"3"), ("lost.cls", b"4")]
    outside = [("../../outside.png", images[3]), ("/absolute.png", images[4]), ("in/../../../up.png", images[5])]
    write_tar(tmp_path / "0.tar", [*twice, *outside])
    whole = write_tar(tmp_path / "1.tar", [("c.png", images[6]), ("d.png", images[7])])
    (tmp_path / "1.tar").write_bytes(whole[: 3 * 512 + len(images[6]) + 700])  # inside d.png
    encode(f"{tmp_path}/{{0..1}}.tar", tmp_path / "store.zarr")

    store = LatentStore(tmp_path / "store.zarr")
    names = ["a.png", "a.png#2", "b.png", "lost", "../../outside.png", "/absolute.png", "in/../../../up.png"]
    assert store.keys(range(9)) == [*(f"0.tar/{name}" for name in names), "1.tar/c.png", "1.tar/d.png"]
    (lost, broken_off) = failures_of(tmp_path / "store.zarr")
    assert lost == (3, "0.tar/lost", "index", "has a label or caption but no image")
    assert broken_off[:3] == (8, "1.tar/d.png", "index")
    assert broken_off[3].startswith("1.tar breaks off inside this member, at byte ")

    for row, image in enumerate([*images[:3], images[0], *images[3:]]):
        put(tmp_path / "alone", f"{row}.png", image)
    encode(tmp_path / "alone", tmp_path / "alone.zarr")
    assert_rows_equal(tmp_path / "store.zarr", tmp_path / "alone.zarr", [0, 1, 2, 4, 5, 6, 7])
    (tmp_path / "below").mkdir()
    before = set(tmp_path.rglob("*"))
    assert len(decoded_files(tmp_path / "store.zarr", tmp_path / "below" / "out")) == 7
    created = set(tmp_path.rglob("*")) - before
    assert all((tmp_path / "below" / "out") in (path, *path.parents) for path in created)


class Blocking(Silent):
    """Puts a pipe that nobody writes to in the place of an image: who reads it waits for ever."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, task: str, total: int, done: int = 0, unit: str = "images") -> None:
        self._path.unlink()
        os.mkfifo(self._path)


def test_workers_that_die_or_hang_cost_the_rows_they_were_on(photos, tmp_path, encode, monkeypatch):
    source = shutil.copytree(photos, tmp_path / "photos")
    encode(source, tmp_path / "whole.zarr")
    monkeypatch.setattr(watchdog, "HUNG_AFTER_S", 1.5)
    monkeypatch.setattr(watchdog, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(encode_job, "open_index", lambda *of: DeadlySource(open_index(*of).index_dir))
    report = encode(source, tmp_path / "store.zarr", Blocking(source / "thing/2.jpg"), num_workers=2, max_failures="2")

    assert report.exit_code == 0
    assert failures_of(tmp_path / "store.zarr") == [
        (5, "animal/5.jpg", "read", "the decoding process was killed by SIGKILL on it, twice"),
        (18, "thing/2.jpg", "read", "the decoding process hung on it for more than 1.5 s, twice"),
    ]
    assert_rows_equal(
        tmp_path / "store.zarr", tmp_path / "whole.zarr", [row for row in range(24) if row not in (5, 18)]
    )


def test_a_complete_store_with_an_array_behind_a_link_stays_as_it_is(photos, encode, tmp_path):
    store = tmp_path / "store.zarr"
    encode(photos, store)
    (store / "latents").rename(tmp_path / "elsewhere")
    (store / "latents").symlink_to(tmp_path / "elsewhere")
    before = files_of(store), files_of(tmp_path / "elsewhere")

    assert encode(photos, store).complete
    assert (files_of(store), files_of(tmp_path / "elsewhere")) == before
