"""Compressed tars: listed and read front to back, as plain ones are otherwise."""

import errno
import gzip
import io
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tcae_cli.errors import ImageError, SourceError
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.sources.scan import open_source
from tcae_cli.sources.source import Source

from ..pictures import COMPRESSED, write_tar, zstd

SUFFIXES = ["tar.gz", "tgz", "tar.zst"]
NUM_IMAGES = 6


def opened(tmp_path: Path, uri: str) -> Source:
    return open_source(str(tmp_path / uri), tmp_path / "index")


def keys(source: Source) -> list[str]:
    return source.keys(range(len(source)))


def read(source: Source, *rows: int) -> list[bytes | str]:
    """The bytes of rows, or the reason why they cannot be read."""
    return [str(found) if isinstance(found, ImageError) else found for found in source.read_many(rows)]


@pytest.fixture
def images() -> dict[str, bytes]:
    """Of sizes beside those of blocks and chunks, hardly compressible, by name."""
    sizes = [1, 511, 512, 70_000, 300_000, 40_000]
    random = np.random.default_rng(0)
    return {f"{number}.png": random.bytes(size) for number, size in enumerate(sizes)}


@pytest.fixture
def opens(monkeypatch) -> list[str]:
    """The names of files that are opened to be read front to back, one after the other."""
    names: list[str] = []
    real_open = LocalFolder.open
    monkeypatch.setattr(LocalFolder, "open", lambda folder, name: names.append(name) or real_open(folder, name))
    return names


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_are_those_of_the_same_tar_not_compressed(suffix, images, tmp_path):
    members = images | {"0.cls": b"7", "1.txt": b"one", "x.cls": b"1", "notes.npy": b""}
    sources = [opened(tmp_path, write_tar(tmp_path / f"s.{each}", members).name) for each in ("tar", suffix)]
    plain, compressed = ([entry._replace(key="") for entry in source.entries()] for source in sources)
    assert compressed == plain and len(plain) == NUM_IMAGES + 1
    assert keys(sources[1])[:2] == [f"s.{suffix}/0.png", f"s.{suffix}/1.png"]
    assert sources[1].passed_over == {".npy": 1}
    assert [source.access for source in sources] == ["row", "stream"]
    assert read(sources[1], *range(NUM_IMAGES)) == list(images.values())


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
def test_what_is_compressed_is_known_by_its_contents(compress, images, tmp_path):
    plain = write_tar(tmp_path / "s.tar", images)
    before = opened(tmp_path, "s.tar").fingerprint
    (tmp_path / "plain.tar.gz").write_bytes(plain.read_bytes())
    plain.write_bytes(compress(plain.read_bytes()))
    source = opened(tmp_path, "s.tar")
    assert source.access == "stream" and source.fingerprint == before and read(source, 2) == [images["2.png"]]
    source = opened(tmp_path, "plain.tar.gz")
    assert source.access == "row" and source.read(2) == images["2.png"]


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.zst"])
def test_parts_that_were_compressed_apart_are_one_tar(suffix, images, tmp_path):
    data = write_tar(tmp_path / "s.tar", images).read_bytes()
    compress = COMPRESSED[f".{suffix.rpartition('.')[2]}"]
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0abcd" if compress is zstd else b""  # as pzstd writes it
    (tmp_path / f"s.{suffix}").write_bytes(skipped + compress(data[:100_000]) + compress(data[100_000:]))
    assert read(opened(tmp_path, f"s.{suffix}"), *range(NUM_IMAGES)) == list(images.values())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_in_order_open_each_tar_once_and_an_earlier_row_opens_it_again(suffix, images, opens, tmp_path):
    for number in (0, 1):
        write_tar(tmp_path / f"{number}.{suffix}", images)
    source = opened(tmp_path, f"{{0..1}}.{suffix}")
    opens.clear()
    data = [*images.values()] * 2
    assert read(source, 1, 2, 4) + read(source, 5, 6, 11) == [data[row] for row in (1, 2, 4, 5, 6, 11)]
    assert opens == [f"0.{suffix}", f"1.{suffix}"]
    assert [read(source, row) for row in (8, 8, 0)] == [[data[row]] for row in (8, 8, 0)]
    assert opens[2:] == [f"1.{suffix}", f"1.{suffix}", f"0.{suffix}"]


def test_reading_begins_at_the_tar_that_holds_the_first_row_asked_for(images, opens, tmp_path):
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar.gz", images)
    assert read(Source(opened(tmp_path, "{0..2}.tar.gz").index_dir), 2 * NUM_IMAGES + 1) == [images["1.png"]]
    assert opens == ["0.tar.gz", "1.tar.gz", "2.tar.gz", "2.tar.gz"]  # three to list, one to read


def test_plain_tars_beside_compressed_ones_are_read_by_position(images, opens, tmp_path):
    for name in ("a.tar", "b.tgz"):
        write_tar(tmp_path / name, images)
    (tmp_path / "b.tgz").rename(tmp_path / "b.tar")
    source = opened(tmp_path, "*.tar")
    opens.clear()
    data = [*images.values()] * 2
    assert [read(source, row) for row in (0, 6, 1, 7, 2, 8)] == [[data[row]] for row in (0, 6, 1, 7, 2, 8)]
    assert opens == ["b.tar"]
    with pytest.raises(
        SourceError, match=r"\*\.tar is compressed, and is read front to back; decompress it to read any"
    ):
        source.read(0)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_compressed_tar_that_is_cut_short_costs_what_follows(suffix, images, tmp_path):
    path = write_tar(tmp_path / f"s.{suffix}", images)
    path.write_bytes(path.read_bytes()[:250_000])
    source = opened(tmp_path, path.name)
    assert keys(source) == [f"s.{suffix}/{number}.png" for number in range(5)]
    assert source.problem(4).startswith(f"s.{suffix} breaks off inside this member, at byte 2")
    assert read(source, 4) == [source.problem(4)] and read(source, 3) == [images["3.png"]]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_data_costs_what_follows(suffix, images, tmp_path):
    path = write_tar(tmp_path / f"s.{suffix}", images | {"0.txt": bytes(20)})
    data = bytearray(path.read_bytes())
    data[200_000:] = b"\xff" * len(data[200_000:])
    path.write_bytes(data)
    source = opened(tmp_path, path.name)
    assert 4 <= len(source) < NUM_IMAGES + 1 and source.problem(len(source) - 1)
    assert read(source, 3) == [images["3.png"]]


def test_a_checksum_that_does_not_match_is_a_row_though_all_images_can_be_read(images, tmp_path):
    path = write_tar(tmp_path / "s.tar.gz", images)
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    source = opened(tmp_path, "s.tar.gz")
    assert len(source) == NUM_IMAGES + 1 and read(source, 5) == [images["5.png"]]
    assert source.problem(NUM_IMAGES).startswith("the tar is damaged at byte 4")
    assert "which cannot be decompressed beyond byte 4" in source.problem(NUM_IMAGES)
    assert "(CRC check failed" in source.problem(NUM_IMAGES)


@pytest.mark.parametrize(
    "data",
    [b"", b"not a tar", gzip.compress(b""), gzip.compress(b"not a tar"), zstd(bytes(700))],
    ids=["empty", "text", "gzip of nothing", "gzip of text", "zstd of zeros"],  # gzip writes the time
)
def test_what_is_no_tar_is_one_row_that_says_so(data, tmp_path, png):
    (tmp_path / "s.tar.gz").write_bytes(data)
    source = opened(tmp_path, "s.tar.gz")
    assert keys(source) == ["s.tar.gz@0"]
    assert source.problem(0) == "the tar is damaged at byte 0: what follows is lost; copy it again"


def test_an_archive_of_another_kind_inside_is_named(images, tmp_path):
    (tmp_path / "s.tar").write_bytes(gzip.compress(zstd(b"x")))
    assert opened(tmp_path, "s.tar").problem(0) == (
        "the tar is compressed with zstd, and images are read by position; unpack it"
    )


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.zst"])
def test_a_tar_damaged_after_it_was_listed_fails_its_rows_and_says_why(suffix, images, opens, tmp_path):
    path = write_tar(tmp_path / f"s.{suffix}", images)
    source = opened(tmp_path, path.name)
    whole = path.read_bytes()
    opens.clear()
    path.write_bytes(whole[:250_000])
    found = read(source, 3, 4, 5)
    assert found[0] == images["3.png"] and len(opens) == 1
    reason = r"\(Compressed file ended .*\)" if suffix == "tar.gz" else r"\(Truncated compressed stream\)"
    sentence = rf"s\.{suffix} cannot be decompressed beyond byte 2[\d,]+ of its contents {reason}; copy it again"
    assert all(re.fullmatch(sentence, each) for each in found[1:])
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:1024]) if suffix == "tar.gz" else zstd(bytes(1024)))
    assert read(source, 1) == [f"s.{suffix} is shorter than when it was indexed"]
    path.write_bytes(whole)
    assert read(Source(source.index_dir), 4) == [images["4.png"]]


def test_a_tar_that_went_away_fails_its_rows_alone(images, tmp_path):
    for number in (0, 1):
        write_tar(tmp_path / f"{number}.tar.gz", images)
    source = opened(tmp_path, "{0..1}.tar.gz")
    (tmp_path / "0.tar.gz").unlink()
    assert read(source, 0, 1, 6) == ["No such file or directory"] * 2 + [images["0.png"]]


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.zst"])
def test_what_is_held_of_a_tar_does_not_grow_with_it(suffix, images, tmp_path):
    big = {"big.npy": bytes(64 << 20)}
    write_tar(tmp_path / f"s.{suffix}", {"a.png": images["1.png"], **big, "b.png": images["4.png"]})
    opened(tmp_path, f"s.{suffix}")
    tracemalloc.start()
    try:
        assert read(opened(tmp_path, f"s.{suffix}"), 0, 1) == [images["1.png"], images["4.png"]]
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


class Failing(io.BytesIO):
    """A file whose reading fails beyond a byte."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > 200_000:
            raise OSError(errno.EIO, "Input/output error", "s")
        return super().read(size)


@pytest.fixture
def failing(monkeypatch, opens) -> Callable[[int], None]:
    """Makes files fail in the middle, so many times that one is opened."""
    real_open = LocalFolder.open

    def fail(num_times: int) -> None:
        opens.clear()

        def open_file(folder: LocalFolder, name: str):
            file = real_open(folder, name)
            if len(opens) > num_times:
                return file
            with file:
                return Failing(file.read())

        monkeypatch.setattr(LocalFolder, "open", open_file)

    return fail


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.zst"])
def test_a_read_that_fails_is_made_again_from_the_start_of_the_tar_once(suffix, images, failing, opens, tmp_path):
    source = opened(tmp_path, write_tar(tmp_path / f"s.{suffix}", images).name)
    failing(1)
    assert read(source, *range(NUM_IMAGES)) == list(images.values()) and len(opens) == 2
    failing(99)
    found = read(source, 0, 4, 5)
    assert found[:2] == [images["0.png"], "Input/output error"]
    where = r"beyond byte [\d,]+ of its contents \(Input/output error\)"
    assert re.fullmatch(rf"s\.{suffix} cannot be decompressed {where}; copy it again", found[2])
    assert len(opens) == 2


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.zst"])
def test_a_tar_that_cannot_be_listed_is_named(suffix, images, failing, tmp_path):
    write_tar(tmp_path / f"s.{suffix}", images)
    failing(99)
    with pytest.raises(
        SourceError, match=r"s cannot be read \(Input/output error\); check its permissions, or move it"
    ):
        opened(tmp_path, f"s.{suffix}")
