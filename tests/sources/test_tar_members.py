"""Tars that are damaged or none: what is whole is a row, and one row stands for what is lost."""

import bz2
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from tcae_cli.sources.scan import open_source
from tcae_cli.sources.source import Source

BLOCK = 512


def opened(tmp_path: Path, uri: str) -> Source:
    return open_source(str(tmp_path / uri), tmp_path / "index")


def keys(source: Source) -> list[str]:
    return source.keys(range(len(source)))


def member_bytes(data: bytes) -> int:
    """What a member takes in a tar: a header, and its bytes in whole blocks."""
    return BLOCK + -(-len(data) // BLOCK) * BLOCK


def lost(byte: int) -> str:
    return f"the tar is damaged at byte {byte}: what follows is lost; copy it again"


@pytest.fixture
def damaged(make_tar, png, tmp_path) -> Callable[[Callable[[bytes], bytes]], Source]:
    """A tar of two images, "a.png" and "b.png", opened after something was done to its bytes."""

    def make(damage: Callable[[bytes], bytes]) -> Source:
        tar = make_tar("s.tar", {"a.png": png(seed=1), "b.png": png(seed=2)})
        tar.write_bytes(damage(tar.read_bytes()))
        return opened(tmp_path, "s.tar")

    return make


@pytest.mark.parametrize("kept", [BLOCK + 1, BLOCK + 100], ids=lambda kept: f"{kept} bytes of the second kept")
def test_an_image_that_is_cut_short_is_the_one_row_that_is_lost(damaged, png, kept, problems):
    cut = member_bytes(png(seed=1)) + kept
    source = damaged(lambda data: data[:cut])
    assert keys(source) == ["s.tar/a.png", "s.tar/b.png"]
    assert problems(source) == {
        "s.tar/b.png": f"s.tar breaks off inside this member, at byte {cut}; copy the tar again"
    }
    assert source.read(0) == png(seed=1)


@pytest.mark.parametrize("kept", [0, 100, BLOCK - 1], ids=lambda kept: f"{kept} bytes of a header kept")
def test_a_tar_cut_between_its_members_has_a_row_for_what_is_lost(damaged, png, kept, problems):
    start = member_bytes(png(seed=1))
    source = damaged(lambda data: data[: start + kept])
    assert keys(source) == ["s.tar/a.png", f"s.tar@{start}"]
    assert problems(source) == {f"s.tar@{start}": lost(start)}


def test_a_tar_without_its_end_has_a_row_for_what_may_be_lost(damaged, png, problems):
    end = member_bytes(png(seed=1)) + member_bytes(png(seed=2))
    source = damaged(lambda data: data[:end])
    assert problems(source) == {f"s.tar@{end}": lost(end)} and len(source) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda data, start: data[:start] + bytes([data[start] ^ 1]) + data[start + 1 :],
        lambda data, start: data[:start] + bytes(2 * BLOCK) + data[start:],
        lambda data, start: data[:start] + b"junk" * BLOCK,
    ],
    ids=["damaged header", "zero blocks inside", "junk"],
)
def test_damage_in_the_middle_costs_what_follows_and_says_so(damaged, png, damage, problems):
    start = member_bytes(png(seed=1))
    source = damaged(lambda data: damage(data, start))
    assert keys(source) == ["s.tar/a.png", f"s.tar@{start}"]
    assert problems(source) == {f"s.tar@{start}": lost(start)}


@pytest.mark.parametrize(
    "size",
    [b"\x80" + b"\0" * 9 + b"\x7f\xff", b"\x80" + b"\x7f" * 11, b"\xff" * 9 + b"\xff\xf0\0"],
    ids=["large", "larger than any file", "negative"],
)
def test_a_size_that_is_a_lie_does_not_lead_astray(damaged, png, size, problems):
    start = member_bytes(png(seed=1))

    def lie(data: bytes) -> bytes:
        header = bytearray(data[start : start + BLOCK])
        header[124:136] = size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return data[:start] + header + data[start + BLOCK :]

    source = damaged(lie)
    assert len(source) == 2 and len(problems(source)) == 1
    assert source.read(0) == png(seed=1)


@pytest.mark.parametrize("data", [b"", b"\0", b"not a tar at all", b"x" * 2000], ids=["empty", "short", "text", "long"])
def test_what_is_no_tar_is_one_row_that_says_so(damaged, data, problems):
    assert problems(damaged(lambda _: data)) == {"s.tar@0": lost(0)}


@pytest.mark.parametrize(("compress", "name"), [(bz2.compress, "bzip2"), (lzma.compress, "xz")])
def test_a_tar_of_another_compression_is_one_row_that_says_what_to_do(damaged, compress, name, problems):
    assert problems(damaged(compress)) == {
        "s.tar@0": f"the tar is compressed with {name}, and images are read by position; unpack it"
    }


def test_a_damaged_tar_costs_nothing_of_the_others(make_tar, png, tmp_path):
    for number in range(3):
        make_tar(f"s-{number}.tar", {"a.png": png(seed=number)})
    (tmp_path / "s-1.tar").write_bytes(b"")
    source = opened(tmp_path, "s-{0..2}.tar")
    assert keys(source) == ["s-0.tar/a.png", "s-1.tar@0", "s-2.tar/a.png"]
    assert source.read(2) == png(seed=2)


def test_a_label_cut_short_is_not_taken_for_another(make_tar, png, tmp_path, problems):
    tar = make_tar("s.tar", {"a.png": png(), "a.cls": b"123"})
    cut = member_bytes(png()) + BLOCK + 2
    tar.write_bytes(tar.read_bytes()[:cut])
    source = opened(tmp_path, "s.tar")
    assert problems(source) == {
        "s.tar/a.png": f"s.tar breaks off inside a.cls, at byte {cut}; copy the tar again",
        f"s.tar@{cut}": lost(cut),
    }


def test_the_image_of_the_last_label_is_told_of_once_where_the_tar_breaks_off(make_tar, png, tmp_path):
    tar = make_tar("s.tar", {"a.png": png(), "b.cls": b"1", "b.png": png()})
    cut = member_bytes(png()) + member_bytes(b"1")
    tar.write_bytes(tar.read_bytes()[:cut])
    assert keys(opened(tmp_path, "s.tar")) == ["s.tar/a.png", f"s.tar@{cut}"]
