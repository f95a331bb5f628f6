"""`tcae decode`: image files named after their keys, and the picture of both."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tcae_cli.autoencoders.by_name import load_autoencoder
from tcae_cli.autoencoders.runner import load_runner
from tcae_cli.errors import DiskError, StoreError, UsageError
from tcae_cli.images.file_names import file_name
from tcae_cli.images.transform import to_uint8
from tcae_cli.jobs import decode as decode_job
from tcae_cli.jobs.decode import decode_store
from tcae_cli.reports.decode import DecodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.store.reader import LatentStore


@pytest.fixture
def store(photos, tmp_path, encode):
    encode(photos, tmp_path / "store.zarr")
    return tmp_path / "store.zarr"


def decode(store, out, progress=None, **options):
    return decode_store(DecodeRequest(store=store, out_dir=out, device="cpu", **options), progress or Silent())


def test_every_row_becomes_a_file_named_after_its_key(store, tmp_path, small_checkpoint):
    report = decode(store, tmp_path / "out")

    assert report.num_written == 24
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert names == {f"{label}/{number}.jpg.png" for label in ("animal", "person", "thing") for number in range(8)}
    latents = torch.from_numpy(LatentStore(store).latents([8])).float()
    expected = to_uint8(load_autoencoder(str(small_checkpoint)).decode(latents))[0].permute(1, 2, 0).numpy()
    with Image.open(tmp_path / "out" / "person" / "0.jpg.png") as picture:
        assert np.abs(np.array(picture).astype(int) - expected).max() <= 1  # batches round otherwise


@pytest.mark.parametrize(("asked", "expected"), [(None, "bf16"), ("fp32", "fp32")])
def test_a_gpu_decodes_in_bf16_unless_another_precision_is_asked_for(store, tmp_path, monkeypatch, asked, expected):
    def load_on_a_gpu(name, device, precision):
        assert (device.type, precision) == ("cuda", expected)
        return load_runner(name, torch.device("cpu"), precision)

    monkeypatch.setattr(decode_job, "choose_device", torch.device)
    monkeypatch.setattr(decode_job, "load_runner", load_on_a_gpu)
    request = DecodeRequest(store=store, out_dir=tmp_path / "out", rows="0", device="cuda", precision=asked)
    assert decode_store(request, Silent()).num_written == 1


@pytest.mark.parametrize(
    ("rows", "count"), [("7", 1), ("0:5", 5), ("20:", 4), (":3", 3), ("20:99", 4), ("30", 0), (None, 24)]
)
def test_rows_choose(store, tmp_path, rows, count):
    assert decode(store, tmp_path / "out", rows=rows).num_written == count


def test_ranks_of_a_launch_share_the_rows(store, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    reports = []
    for rank in "012":
        monkeypatch.setenv("RANK", rank)
        reports.append(decode(store, tmp_path / "out", rows="2:24", grid=4))
    assert [(report.num_written, report.num_skipped_existing) for report in reports] == [(7, 0), (7, 0), (8, 0)]
    assert [report.grid is not None for report in reports] == [True, False, False]
    assert len(list((tmp_path / "out").rglob("*.jpg.png"))) == 22


@pytest.mark.parametrize("rows", ["a", "1:2:3", "-1", "1-2", ""])
def test_rows_that_mean_nothing_are_refused(store, tmp_path, rows):
    with pytest.raises(UsageError, match="is not a row or a range of rows; write 7, 0:100, 100: or :100"):
        decode(store, tmp_path / "out", rows=rows)


@pytest.mark.parametrize(("image_format", "found"), [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")])
def test_formats(store, tmp_path, image_format, found):
    decode(store, tmp_path / "out", rows="0", format=image_format)
    with Image.open(tmp_path / "out" / "animal" / f"0.jpg.{image_format}") as picture:
        assert (picture.format, picture.size) == (found, (64, 64))


def test_files_that_are_there_are_left_alone(store, tmp_path):
    (tmp_path / "out" / "animal").mkdir(parents=True)
    (tmp_path / "out" / "animal" / "1.jpg.png").write_text("mine")
    report = decode(store, tmp_path / "out", rows="0:3")

    assert (report.num_written, report.num_skipped_existing) == (2, 1)
    assert (tmp_path / "out" / "animal" / "1.jpg.png").read_text() == "mine"
    assert decode(store, tmp_path / "out", rows="0:3").num_written == 0


def test_the_grid_shows_originals_above_reconstructions(store, tmp_path, photos):
    first = decode(store, tmp_path / "out", rows="0", grid=1)
    assert first.grid == tmp_path / "out" / "grid.png"
    with Image.open(first.grid) as picture:
        above = np.array(picture)[: picture.height // 2]
    with Image.open(photos / "animal" / "0.jpg") as picture:
        original = np.array(picture.resize((85, 64), Image.Resampling.BICUBIC))[:, 10:74]
    height, width = above.shape[0], above.shape[1]
    centre = above[height // 2 - 20 : height // 2 + 20, width // 2 - 20 : width // 2 + 20].astype(int)
    assert np.abs(centre.mean((0, 1)) - original[12:52, 12:52].mean((0, 1))).max() < 12

    assert decode(store, tmp_path / "out", grid=30).grid == tmp_path / "out" / "grid-2.png"  # more than there are rows


def test_the_grid_says_when_originals_are_gone(photos, tmp_path, encode):
    import shutil

    source = shutil.copytree(photos, tmp_path / "photos")
    encode(source, tmp_path / "store.zarr")
    (source / "animal" / "0.jpg").write_bytes((source / "animal" / "1.jpg").read_bytes())
    (source / "animal" / "2.jpg").unlink()
    said = []

    class Listening(Silent):
        def say(self, sentence):
            said.append(sentence)

    assert decode(tmp_path / "store.zarr", tmp_path / "out", Listening(), rows="0:4", grid=4).grid
    assert said == ["2 originals have changed or are missing; the picture leaves them blank"]


def test_failed_rows_are_counted_and_not_drawn(photos, tmp_path, encode):
    import shutil

    source = shutil.copytree(photos, tmp_path / "photos")
    (source / "animal" / "1.jpg").write_bytes(b"not an image")
    encode(source, tmp_path / "store.zarr")
    report = decode(tmp_path / "store.zarr", tmp_path / "out", grid=24)

    assert (report.num_written, report.num_not_ok) == (23, 1)
    assert not (tmp_path / "out" / "animal" / "1.jpg.png").exists()


def test_a_file_where_the_folder_should_be_is_left_alone(store, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DiskError, match="out cannot be written: a file of that name is in the way"):
        decode(store, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_another_encoder_is_refused_unless_forced(store, tmp_path):
    with pytest.raises(StoreError, match=r"made with encoder \w{12} .*, tcae-tiny has \w{12}; pass --model .* --force"):
        decode(store, tmp_path / "out", model="tcae-tiny")
    with pytest.raises(StoreError, match=r"latents of 8 channels, tcae-tiny decodes 128"):
        decode(store, tmp_path / "out", model="tcae-tiny", force=True)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("../../etc/passwd", "%2E%2E/%2E%2E/etc/passwd"),
        ("/absolute", "%/absolute"),
        ("a//b", "a/%/b"),
        ("./a", "%2E/a"),
        ("100%\n.jpg", "100%25%0A.jpg"),
        ("snowman \N{SNOWMAN}.jpg", "snowman \N{SNOWMAN}.jpg"),
    ],
)
def test_names_stay_inside_their_folder(key, path):
    assert str(file_name(key)) == path


def test_long_names_are_shortened_and_stay_apart():
    one, other = file_name("x" * 400 + "1"), file_name("x" * 400 + "2")
    assert one != other and len(str(one)) <= 200


def test_decoding_into_the_source_is_pointed_out(photos, tmp_path, encode):
    source = shutil.copytree(photos, tmp_path / "photos")
    encode(source, tmp_path / "store.zarr")
    said: list[str] = []

    class Saying(Silent):
        def say(self, sentence: str) -> None:
            said.append(sentence)

    for out in (source / "out", tmp_path / "out"):
        decode_store(DecodeRequest(store=str(tmp_path / "store.zarr"), out_dir=out, rows="0:2", device="cpu"), Saying())
    assert len(said) == 1 and said[0].startswith(f"{source / 'out'} lies in {source}, whose next scan")
