"""Tar shards as a source."""

import gzip
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tcae_cli.data.source import Source, open_source
from tcae_cli.errors import ImageError, NotFoundError, SourceError, UsageError

BLOCK = 512


def opened(tmp_path: Path, uri: str) -> Source:
    return open_source(str(tmp_path / uri), tmp_path / "index")


def keys(source: Source) -> list[str]:
    return source.keys(range(len(source)))


def problems(source: Source) -> dict[str, str]:
    """What reading says of each row that a scan found a problem with."""
    found = {}
    for row in range(len(source)):
        if source.problem(row):
            with pytest.raises(ImageError) as raised:
                source.read(row)
            assert raised.value.stage == "index"
            found[source.key(row)] = str(raised.value)
    return found


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


def test_a_pattern_names_tars_in_order(make_tar, png, tmp_path):
    for number in (0, 1, 2):
        make_tar(f"s-{number:02}.tar", {"z.png": png(seed=number), "a.png": png(seed=9)})
    source = opened(tmp_path, "s-{00..02}.tar")
    assert source.keys(range(6)) == [f"s-0{number}.tar/{name}.png" for number in (0, 1, 2) for name in "za"]
    assert [source.read(row) for row in (0, 2, 4)] == [png(seed=number) for number in (0, 1, 2)]
    assert pickle.loads(pickle.dumps(source)).read(2) == png(seed=1)
    assert not any(source.problem(row) for row in range(6))


def test_keys_tell_tars_in_different_folders_apart(make_tar, png, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        make_tar(f"{folder}/0.tar", {"./a.png": png()})
    assert opened(tmp_path, "{x,y}/0.tar").keys(range(2)) == ["x/0.tar/a.png", "y/0.tar/a.png"]


def test_labels_and_captions_share_the_name_of_the_image(make_tar, png, tmp_path):
    members = {"a.png": png(), "a.cls": b"7\n", "a.txt": b"text first", "a.json": b'{"caption": "not this"}'}
    members |= {
        "d.x/b.v2.png": png(),
        "d.x/b.cls": b"3",
        "d.x/b.json": b'{"text": "from json", "n": [1]}',
        "c.png": png(),
    }
    source = opened(tmp_path, make_tar("s.tar", members).name)
    assert source.labels(0, 3).tolist() == [7, 3, -1]
    assert [source.caption(row) for row in range(3)] == ["text first", "from json", ""]


def test_long_names_and_names_that_point_outside_are_only_names(make_tar, png, tmp_path):
    names = ["../../up.png", "/root.png", f"{'long/' * 60}x.png", "猫\n.png"]
    source = opened(tmp_path, make_tar("s.tar", {name: png() for name in names}).name)
    assert source.keys(range(4)) == [f"s.tar/{name}" for name in names]
    assert source.read(0) == source.read(3) == png()
    assert not list(tmp_path.parent.parent.glob("**/up.png"))


@pytest.mark.parametrize("kept", [BLOCK + 1, BLOCK + 100], ids=lambda kept: f"{kept} bytes of the second kept")
def test_an_image_that_is_cut_short_is_the_one_row_that_is_lost(damaged, png, kept):
    cut = member_bytes(png(seed=1)) + kept
    source = damaged(lambda data: data[:cut])
    assert keys(source) == ["s.tar/a.png", "s.tar/b.png"]
    assert problems(source) == {
        "s.tar/b.png": f"s.tar breaks off inside this member, at byte {cut}; copy the tar again"
    }
    assert source.read(0) == png(seed=1)


@pytest.mark.parametrize("kept", [0, 100, BLOCK - 1], ids=lambda kept: f"{kept} bytes of a header kept")
def test_a_tar_cut_between_its_members_has_a_row_for_what_is_lost(damaged, png, kept):
    start = member_bytes(png(seed=1))
    source = damaged(lambda data: data[: start + kept])
    assert keys(source) == ["s.tar/a.png", f"s.tar@{start}"]
    assert problems(source) == {f"s.tar@{start}": lost(start)}


def test_a_tar_without_its_end_has_a_row_for_what_may_be_lost(damaged, png):
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
def test_damage_in_the_middle_costs_what_follows_and_says_so(damaged, png, damage):
    start = member_bytes(png(seed=1))
    source = damaged(lambda data: damage(data, start))
    assert keys(source) == ["s.tar/a.png", f"s.tar@{start}"]
    assert problems(source) == {f"s.tar@{start}": lost(start)}


@pytest.mark.parametrize(
    "size", [b"\x80" + b"\0" * 9 + b"\x7f\xff", b"\xff" * 9 + b"\xff\xf0\0"], ids=["huge", "negative"]
)
def test_a_size_that_is_a_lie_does_not_lead_astray(damaged, png, size):
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
def test_what_is_no_tar_is_one_row_that_says_so(damaged, data):
    assert problems(damaged(lambda _: data)) == {"s.tar@0": lost(0)}


def test_a_compressed_tar_is_one_row_that_says_what_to_do(damaged):
    source = damaged(gzip.compress)
    assert problems(source) == {
        "s.tar@0": "the tar is compressed with gzip, and images are read by position; unpack it"
    }


def test_a_damaged_tar_costs_nothing_of_the_others(make_tar, png, tmp_path):
    for number in range(3):
        make_tar(f"s-{number}.tar", {"a.png": png(seed=number)})
    (tmp_path / "s-1.tar").write_bytes(b"")
    source = opened(tmp_path, "s-{0..2}.tar")
    assert keys(source) == ["s-0.tar/a.png", "s-1.tar@0", "s-2.tar/a.png"]
    assert source.read(2) == png(seed=2)


def test_members_of_one_name_are_rows_each_with_its_own_label_or_the_one_there_is(make_tar, png, tmp_path):
    members = [("a.png", png(seed=1)), ("a.cls", b"1"), ("./a.png", png(seed=2)), ("a.cls", b"2"), ("a.txt", b"both")]
    source = opened(tmp_path, make_tar("s.tar", members).name)
    assert keys(source) == ["s.tar/a.png", "s.tar/a.png#2"]
    assert source.labels(0, 2).tolist() == [1, 2]
    assert [source.caption(row) for row in (0, 1)] == ["both", "both"]
    assert [source.read(row) for row in (0, 1)] == [png(seed=1), png(seed=2)]


def test_labels_that_cannot_be_paired_are_a_problem_of_their_images(make_tar, png, tmp_path):
    members = [*[("a.png", png())] * 3, *[("a.cls", b"1")] * 2, ("b.png", png())]
    source = opened(tmp_path, make_tar("s.tar", members).name)
    problem = "s.tar: a.cls is there 2 times for 3 images; make it one for each"
    assert problems(source) == {f"s.tar/a.png{suffix}": problem for suffix in ("", "#2", "#3")}
    assert source.read(3) == png()


@pytest.mark.parametrize(
    ("sidecar", "data", "problem"),
    [
        ("a.cls", b"cat", "s.tar: a.cls: the label should be a whole number from 0, found 'cat'; correct it"),
        (
            "a.cls",
            b"9" * 30,
            f"s.tar: a.cls: the label should be a whole number from 0, found '{'9' * 30}'; correct it",
        ),
        ("a.json", b"{", "s.tar: a.json: not readable as JSON"),
        ("a.json", b"[" * 100_000, "s.tar: a.json: not readable as JSON"),
        ("a.txt", b"\xff", "s.tar: a.txt is not UTF-8 text (invalid start byte); convert or remove it"),
        ("a.txt", b"x" * (16 << 20) + b"x", "a.txt is 16,777,217 bytes, too many for a label or caption; shorten it"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_malformed_label_or_caption_costs_its_row_alone(make_tar, png, tmp_path, sidecar, data, problem):
    make_tar("s.tar", {"a.png": png(), sidecar: data, "b.png": png(), "b.cls": b"3"})
    source = opened(tmp_path, "s.tar")
    assert list(problems(source)) == ["s.tar/a.png"] and problem in source.problem(0)
    assert source.label(1) == 3 and source.read(1) == png()


def test_a_label_without_an_image_is_a_row_that_says_so(make_tar, png, tmp_path):
    source = opened(tmp_path, make_tar("s.tar", {"a.png": png(), "b.cls": b"1", "b.json": b"{}", "c.png": png()}).name)
    assert keys(source) == ["s.tar/a.png", "s.tar/b", "s.tar/c.png"]
    assert problems(source) == {"s.tar/b": "has a label or caption but no image"}


def test_a_caption_without_an_image_is_a_row_only_where_images_have_captions(make_tar, png, tmp_path):
    make_tar("s-0.tar", {"a.png": png(), "README.txt": b"about", "a.seg.json": b"{}"})
    make_tar("s-1.tar", {"a.png": png(), "a.txt": b"one", "b.txt": b"two"})
    source = opened(tmp_path, "s-{0..1}.tar")
    assert keys(source) == ["s-0.tar/a.png", "s-1.tar/a.png", "s-1.tar/b"]


def test_a_label_cut_short_is_not_taken_for_another(make_tar, png, tmp_path):
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


def test_links_inside_a_tar_are_rows_not_gaps(tmp_path, png):
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").hardlink_to(tmp_path / "a.png")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("a.png", "b.png"):
            tar.add(tmp_path / name, name)
    assert problems(opened(tmp_path, "s.tar")) == {
        "s.tar/b.png": "is a link inside a tar; make it with --dereference --hard-dereference"
    }


def test_a_tar_that_shrank_after_indexing_fails_its_rows(make_tar, png, tmp_path):
    tar = make_tar("s.tar", {"a.png": png()})
    source = opened(tmp_path, "s.tar")
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(ImageError, match=r"s\.tar is shorter than when it was indexed"):
        source.read(0)


def test_a_tar_without_images_is_refused(make_tar, tmp_path):
    make_tar("s.tar", {"a.txt": b"hello", "b.cls": b"1"})
    with pytest.raises(SourceError, match=r"s\.tar holds no images; images are members ending in .avif"):
        opened(tmp_path, "s.tar")


def test_a_tar_named_twice_is_refused(make_tar, png, tmp_path):
    make_tar("s.tar", {"a.png": png()})
    with pytest.raises(SourceError, match=r"s\.tar/a\.png is there twice"):
        opened(tmp_path, "{s,s}.tar")


def test_missing_tars_are_counted(make_tar, png, tmp_path):
    make_tar("s-1.tar", {"a.png": png()})
    with pytest.raises(NotFoundError, match=r"s-0\.tar does not exist; 2 of its 3 tars do not exist; correct"):
        opened(tmp_path, "s-{0..2}.tar")
    with pytest.raises(NotFoundError, match=r"s-7\.tar does not exist; correct"):
        opened(tmp_path, "s-7.tar")


def test_a_pattern_that_is_none_is_explained(tmp_path):
    with pytest.raises(UsageError, match=r"is not a pattern of tars .*; write it as shards/\{000\.\.127\}\.tar"):
        opened(tmp_path, "s-{0..2.tar")
