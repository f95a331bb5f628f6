"""Whatever a source holds, and whatever becomes of the workers: a bad image costs its row, by name, and no other."""

import io
import os
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image, ImageCms, ImageOps

from tcae_cli.data import image_batch, watchdog
from tcae_cli.data.source import Source
from tcae_cli.errors import ImageError, StoreError
from tcae_cli.jobs import encode as encode_job
from tcae_cli.jobs.decode import decode_store
from tcae_cli.report import DecodeRequest, Silent
from tcae_cli.store.reader import LatentStore

from .conftest import assert_same_store
from .privileges import heeding_permissions


def picture(seed: int, height: int = 72, width: int = 96) -> np.ndarray:
    """Coloured waves, [h, w, 3], uint8, other ones for each seed."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin((x * (channel + 1) + y * (seed % 7 + 1)) / 20 + seed) for channel in range(3)]
    return ((np.stack(waves, -1) + 1) * 127).astype(np.uint8)


def file_of(image: Image.Image | np.ndarray, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, format, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def cmyk() -> tuple[bytes, np.ndarray]:
    data = file_of(Image.fromarray(picture(1)).convert("CMYK"), "JPEG")
    return data, np.array(opened(data).convert("RGB"))


def sixteen_bits() -> tuple[bytes, np.ndarray]:
    greys = picture(2)[..., 0].astype(np.uint16) * 256 + 77
    return file_of(greys), np.repeat((greys / 257).round().astype(np.uint8)[..., None], 3, -1)


def palette_with_transparency() -> tuple[bytes, np.ndarray]:
    image = Image.fromarray(picture(3)).quantize(16)
    seen = np.where((np.array(image) == 5)[..., None], 255, np.array(image.convert("RGB")))
    return file_of(image, transparency=5), seen.astype(np.uint8)


def animated() -> tuple[bytes, np.ndarray]:
    frames = [Image.fromarray(picture(seed)).quantize(64) for seed in (4, 5)]
    data = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    return data, np.array(frames[0].convert("RGB"))


def rotated() -> tuple[bytes, np.ndarray]:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of(picture(6), "JPEG", exif=exif)
    return data, np.array(ImageOps.exif_transpose(opened(data)))


def with_profile() -> tuple[bytes, np.ndarray]:
    """Red and green have each other's primaries."""
    srgb = ImageCms.createProfile("sRGB")
    profile = ImageCms.ImageCmsProfile(srgb).tobytes()
    profile = profile.replace(b"rXYZ", b"....").replace(b"gXYZ", b"rXYZ").replace(b"....", b"gXYZ")
    image = Image.fromarray(picture(7))
    seen = np.array(ImageCms.profileToProfile(image, io.BytesIO(profile), srgb))
    assert np.abs(seen.astype(int) - picture(7)).max() > 50
    return file_of(image, icc_profile=profile), seen


def plain(seed: int, height: int = 72, width: int = 96) -> tuple[bytes, np.ndarray]:
    return file_of(picture(seed, height, width)), picture(seed, height, width)


@cache
def good_images() -> dict[str, tuple[bytes, np.ndarray]]:
    """File and picture by name."""
    photograph = file_of(picture(10), "JPEG")
    return {
        "cmyk.jpg": cmyk(),
        "sixteen bits.png": sixteen_bits(),
        "palette.png": palette_with_transparency(),
        "animated.gif": animated(),
        "rotated.jpg": rotated(),
        "profile.png": with_profile(),
        "one pixel.png": plain(8, 1, 1),
        "long.png": plain(9, 10, 20_000),
        "a.jpg": (photograph, np.array(opened(photograph))),
        "a.png": plain(11),
        "猫/照片.png": plain(12),
        "قطة.png": plain(13),
        "\N{CAT}.png": plain(14),
        "new\nline.png": plain(15),
        os.fsdecode(b"caf\xe9.png"): plain(16),
        "100% \\ ..png": plain(17),
    }


@cache
def bomb() -> bytes:
    """182 million white pixels in few bytes."""
    return file_of(Image.new("1", (14_000, 13_000), 1))


BAD = {  # name -> stage, reason
    "bad/truncated.jpg": ("decode", "image file is truncated"),
    "bad/empty.png": ("decode", "the file is empty"),
    "bad/page.jpg": ("decode", "not an image that can be read (16 bytes)"),
    "bad/bomb.png": ("decode", "Image size (182000000 pixels) exceeds limit"),
    "bad/secret.png": ("read", "Permission denied"),
    "bad/leads nowhere.png": ("read", "No such file or directory"),
    "bad/leads to itself.png": ("read", "Too many levels of symbolic links"),
    "bad/vanished.png": ("read", "No such file or directory"),
}


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


def failures_of(store: Path) -> list[tuple[int, str, str, str]]:
    """Row, path, stage and error of what failed, by plain zarr."""
    group = zarr.open_group(store, mode="r")["failures"]
    return list(zip(*(group[name][:].tolist() for name in ("row", "path", "stage", "error")), strict=True))


def assert_rows_equal(store: Path, other: Path, rows: Sequence[int]) -> None:
    one, two = (zarr.open_group(path, mode="r") for path in (store, other))
    for name in ("latents", "original_size", "crop"):
        assert np.array_equal(one[name][:][rows], two[name][:][rows]), name


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


@pytest.mark.parametrize(("allowed", "exit_code"), [("5", 3), ("6", 0), ("20%", 3), ("25%", 0)])
def test_a_share_or_a_count_decides_between_exit_0_and_3(hostile, tmp_path, encode, allowed, exit_code):
    (hostile / "bad/secret.png").unlink()
    (hostile / "bad/vanished.png").unlink()  # 6 bad ones of 22 are left, and of these 5 in 22 are more than 20 %
    (hostile / "bad/page.jpg").unlink()
    (hostile / "bad/more.jpg").write_bytes(b"<html>500</html>")
    for number in range(4):
        put(hostile, f"good {number}.png", plain(number)[0])

    report = encode(hostile, tmp_path / "store.zarr", max_failures=allowed)
    assert (report.num_rows, report.num_failed, report.exit_code) == (26, 6, exit_code)


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


class DeadlySource(Source):
    """Reading row 5 kills the process that does."""

    def __reduce__(self) -> tuple[type["DeadlySource"], tuple[Path]]:
        return type(self), (self.index_dir,)

    def read_many(self, rows: Sequence[int]) -> Iterator[bytes | ImageError]:
        for row in rows:
            if row == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            yield from super().read_many([row])


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
    monkeypatch.setattr(watchdog, "HUNG_AFTER_S", 1.0)
    monkeypatch.setattr(watchdog, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(encode_job, "load_source", DeadlySource)
    report = encode(source, tmp_path / "store.zarr", Blocking(source / "thing/2.jpg"), num_workers=2, max_failures="2")

    assert report.exit_code == 0
    assert failures_of(tmp_path / "store.zarr") == [
        (5, "animal/5.jpg", "read", "the decoding process was killed by SIGKILL on it, twice"),
        (18, "thing/2.jpg", "read", "the decoding process hung on it for more than 1 s, twice"),
    ]
    assert_rows_equal(
        tmp_path / "store.zarr", tmp_path / "whole.zarr", [row for row in range(24) if row not in (5, 18)]
    )


BROKEN = {"animal/3.jpg": 3, "animal/6.jpg": 6, "thing/1.jpg": 17}  # name -> row; in both shards


@pytest.fixture
def broken(photos: Path, tmp_path: Path) -> Path:
    """The photographs, three of them cut short."""
    source = shutil.copytree(photos, tmp_path / "photos")
    for name in BROKEN:
        (source / name).write_bytes((photos / name).read_bytes()[:700])
    return source


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What this process has decoded."""
    files: list[bytes] = []
    decode: Callable[[bytes], np.ndarray] = image_batch.decode_image
    monkeypatch.setattr(image_batch, "decode_image", lambda data: (files.append(data), decode(data))[1])
    return files


def test_failed_rows_are_tried_again_once_they_are_put_right_and_no_others(photos, broken, tmp_path, encode, decoded):
    encode(broken, tmp_path / "store.zarr")
    decoded.clear()
    for name in BROKEN:
        shutil.copy(photos / name, broken / name)
    report = encode(broken, tmp_path / "store.zarr", retry_failed=True)

    assert (report.num_encoded_now, report.num_ok, report.num_failed, report.exit_code) == (3, 24, 0, 0)
    assert decoded == [(photos / name).read_bytes() for name in BROKEN]
    encode(broken, tmp_path / "fresh.zarr")
    assert_same_store(tmp_path / "store.zarr", tmp_path / "fresh.zarr")
    assert encode(broken, tmp_path / "store.zarr").num_encoded_now == 0  # and it goes on being a store of this source


def test_rows_that_fail_again_are_failed_still_and_the_rest_is_as_it_was(broken, tmp_path, encode, decoded):
    encode(broken, tmp_path / "store.zarr")
    shutil.copytree(tmp_path / "store.zarr", tmp_path / "before.zarr")
    decoded.clear()
    report = encode(broken, tmp_path / "store.zarr", retry_failed=True)

    assert (report.num_encoded_now, report.num_failed, report.exit_code) == (3, 3, 3)
    assert len(decoded) == 3
    assert_same_store(tmp_path / "store.zarr", tmp_path / "before.zarr")


def test_of_three_put_one_right_and_two_stay_failed(photos, broken, tmp_path, encode):
    encode(broken, tmp_path / "store.zarr")
    shutil.copy(photos / "animal/6.jpg", broken / "animal/6.jpg")
    encode(broken, tmp_path / "store.zarr", retry_failed=True)

    assert [(row, path) for row, path, _, _ in failures_of(tmp_path / "store.zarr")] == [
        (3, "animal/3.jpg"),
        (17, "thing/1.jpg"),
    ]
    encode(photos, tmp_path / "whole.zarr")
    assert_rows_equal(tmp_path / "store.zarr", tmp_path / "whole.zarr", [r for r in range(24) if r not in (3, 17)])


def test_a_failed_image_put_right_is_named_with_the_way_to_encode_it(photos, broken, tmp_path, encode):
    encode(broken, tmp_path / "store.zarr")
    shutil.copy(photos / "animal/6.jpg", broken / "animal/6.jpg")

    with pytest.raises(StoreError, match=r"1 changed \(animal/6\.jpg .*; put .* back .*, or .* --retry-failed to enc"):
        encode(broken, tmp_path / "store.zarr")


def test_an_image_that_is_in_the_store_may_not_change_when_others_are_tried_again(photos, broken, tmp_path, encode):
    encode(broken, tmp_path / "store.zarr")
    shutil.copy(photos / "animal/6.jpg", broken / "animal/6.jpg")
    shutil.copy(photos / "animal/0.jpg", broken / "animal/1.jpg")

    with pytest.raises(StoreError, match=r": 1 changed \(animal/1\.jpg \(.*\)\); put them back as they were"):
        encode(broken, tmp_path / "store.zarr", retry_failed=True)
