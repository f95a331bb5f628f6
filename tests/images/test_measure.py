"""The sizes of images, by their headers."""

import os
import signal
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tcae_cli.images import measure, watchdog
from tcae_cli.images.image_file import decode_image, image_size
from tcae_cli.images.measure import add_image_sizes, measure_images
from tcae_cli.reports.progress import Silent
from tcae_cli.sources.scan import open_source
from tcae_cli.sources.source import Source

from ..forms import FORMS, Sample

ORIENTATION = 0x0112


@pytest.fixture
def source_of(tmp_path) -> Callable[[dict[str, bytes]], Source]:
    def write(files: dict[str, bytes], where: str = "source") -> Source:
        (tmp_path / where).mkdir(exist_ok=True)
        for name, data in files.items():
            (tmp_path / where / name).write_bytes(data)
        return open_source(str(tmp_path / where), tmp_path / f"{where}-index")

    return write


def encoded(width: int, height: int, form: str = "JPEG", **options) -> bytes:
    buffer = BytesIO()
    Image.effect_noise((width, height), 64).convert("RGB").save(buffer, form, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_the_size_is_that_of_the_picture_that_is_decoded(source_of, form):
    source = source_of({"small.png": encoded(33, 21, form), "large.png": encoded(700, 500, form)})
    found = measure_images(source, range(2), 0, Silent()).tolist()
    assert found == [[500, 700], [21, 33]]
    assert found == [list(decode_image(source.read(row)).shape[:2]) for row in range(2)]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_image_that_lies_on_its_side_is_measured_upright(source_of, form, orientation):
    source = source_of({"a.jpg": encoded(700, 500, form, exif=turned(orientation))})
    sideways = orientation >= 5
    assert measure_images(source, range(1), 0, Silent()).tolist() == [[700, 500] if sideways else [500, 700]]
    assert image_size(source.read(0)) == decode_image(source.read(0)).shape[:2]


def test_a_header_may_be_longer_than_the_start_that_is_read_first(source_of):
    data = encoded(700, 500, comment=b"x" * 60_000)
    assert len(data) > 60_000
    assert measure_images(source_of({"a.jpg": data}), range(1), 0, Silent()).tolist() == [[500, 700]]


def test_what_cannot_be_measured_has_no_size(source_of):
    source = source_of({"a.jpg": b"", "b.jpg": b"no image", "c.jpg": encoded(30, 20)[:10], "d.jpg": encoded(30, 20)})
    assert measure_images(source, range(4), 0, Silent()).tolist() == [[0, 0], [0, 0], [0, 0], [20, 30]]


def test_a_row_keeps_the_size_it_was_first_listed_with(source_of):
    first = source_of({"a.png": encoded(30, 20, "PNG"), "b.png": encoded(40, 20, "PNG")}, "before")
    add_image_sizes(first, None, 0, Silent())
    then = source_of({"a.png": encoded(50, 20, "PNG"), "b.png": b"", "c.png": encoded(60, 20, "PNG")}, "after")
    add_image_sizes(then, Source(first.index_dir), 0, Silent())
    assert Source(then.index_dir).image_sizes.tolist() == [[20, 30], [20, 40], [20, 60]]
    assert Source(then.index_dir).fingerprint == then.fingerprint


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_source_gives_the_same_sizes(form, write_source, tmp_path):
    samples = [Sample("cat", f"{row}.png", encoded(20 + row, 30, "PNG")) for row in range(6)]
    source = open_source(str(write_source(form, samples[:3], samples[3:])), tmp_path / "index")
    assert measure_images(source, range(6), 0, Silent()).tolist() == [[30, 20 + row] for row in range(6)]


class DeadlySource(Source):
    """Reading row 5 kills the process that does."""

    signal = signal.SIGKILL

    def __reduce__(self) -> tuple[type["DeadlySource"], tuple[Path]]:
        return type(self), (self.index_dir,)

    def read_start(self, row: int, num_bytes: int) -> bytes:
        if row == 5:
            os.kill(os.getpid(), self.signal)
        return super().read_start(row, num_bytes)


class StandingSource(DeadlySource):
    """Reading row 5 stops the process that does: it hangs."""

    signal = signal.SIGSTOP


@pytest.fixture
def few(source_of, monkeypatch) -> Source:
    """14 images, which workers measure."""
    monkeypatch.setattr(measure, "_FEW", 0)
    monkeypatch.setattr(measure, "_ROWS_TOGETHER", 4)
    return source_of({f"{row:02}.jpg": encoded(20 + row, 30) for row in range(14)})


@pytest.mark.alone
@pytest.mark.parametrize("kind", [DeadlySource, StandingSource])
def test_workers_measure_too_and_one_that_dies_or_hangs_costs_the_image_it_was_on(few, monkeypatch, soon, kind):
    wanted = np.array([[30, 20 + row] for row in range(14)])
    assert np.array_equal(measure_images(few, range(14), 2, Silent()), wanted)
    wanted[5] = 0
    monkeypatch.setattr(watchdog, "HUNG_AFTER_S", 1.2)
    assert np.array_equal(measure_images(kind(few.index_dir), range(14), 2, Silent()), wanted)


@pytest.mark.alone
def test_ctrl_c_is_heard_while_images_are_measured(few):
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        measure_images(StandingSource(few.index_dir), range(14), 2, Silent())
