"""Tar shards as a source."""

import pickle
from pathlib import Path

import pytest

from tcae_cli.data.source import Source, open_source
from tcae_cli.errors import ImageError, NotFoundError, SourceError, UsageError


def opened(tmp_path: Path, uri: str) -> Source:
    return open_source(str(tmp_path / uri), tmp_path / "index")


def test_a_pattern_names_tars_in_order(make_tar, png, tmp_path):
    for number in (0, 1, 2):
        make_tar(f"s-{number:02}.tar", {"z.png": png(seed=number), "a.png": png(seed=9)})
    source = opened(tmp_path, "s-{00..02}.tar")
    assert source.keys(range(6)) == [f"s-0{number}.tar/{name}.png" for number in (0, 1, 2) for name in "za"]
    assert [source.read(row) for row in (0, 2, 4)] == [png(seed=number) for number in (0, 1, 2)]
    assert pickle.loads(pickle.dumps(source)).read(2) == png(seed=1)


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
    names = ["../up.png", "/root.png", f"{'long/' * 60}x.png"]
    source = opened(tmp_path, make_tar("s.tar", {name: png() for name in names}).name)
    assert source.keys(range(3)) == [f"s.tar/{name}" for name in names]
    assert source.read(0) == png()
    assert not (tmp_path.parent / "up.png").exists()


@pytest.mark.parametrize("cut", [100, 511, 512, 1500, 3000], ids=lambda cut: f"{cut} bytes kept")
def test_a_tar_cut_short_anywhere_is_refused(make_tar, png, tmp_path, cut):
    tar = make_tar("s.tar", {"a.png": png(), "b.png": png()})
    tar.write_bytes(tar.read_bytes()[:cut])
    with pytest.raises(SourceError, match=r"s\.tar is damaged"):
        opened(tmp_path, "s.tar")


def test_a_tar_cut_between_members_is_refused(make_tar, png, tmp_path):
    tar = make_tar("s.tar", {"a.png": png(), "b.png": png()})
    first_member_bytes = 512 + -(-len(png()) // 512) * 512
    tar.write_bytes(tar.read_bytes()[:first_member_bytes])
    with pytest.raises(
        SourceError, match=f"its list of members breaks off at byte {first_member_bytes}; copy it again"
    ):
        opened(tmp_path, "s.tar")


def test_a_damaged_header_in_the_middle_is_refused(make_tar, png, tmp_path):
    tar = make_tar("s.tar", {"a.png": png(), "b.png": png()})
    data = bytearray(tar.read_bytes())
    data[data.index(b"b.png")] ^= 1
    tar.write_bytes(data)
    with pytest.raises(SourceError, match="its list of members breaks off"):
        opened(tmp_path, "s.tar")


def test_a_tar_that_shrank_after_indexing_fails_its_rows(make_tar, png, tmp_path):
    tar = make_tar("s.tar", {"a.png": png()})
    source = opened(tmp_path, "s.tar")
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(ImageError, match=r"s\.tar is shorter than when it was indexed"):
        source.read(0)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"a.txt": b"hello"}, r"s\.tar holds no images; images are members ending in .avif"),
        ({"a.png": b"", "a.cls": b"cat"}, r"s\.tar: a\.cls: the label should be a whole number from 0, found 'cat'"),
        ({"a.png": b"", "a.cls": b"9" * 30}, r"s\.tar: a\.cls: the label should be a whole number from 0, found '999"),
        ({"a.png": b"", "a.json": b"{"}, r"s\.tar: a\.json: not readable as JSON"),
        ({"a.png": b"", "./a.png": b""}, r"s\.tar/a\.png is there twice"),
    ],
)
def test_what_cannot_be_used_is_named(make_tar, tmp_path, members, sentence):
    make_tar("s.tar", members)
    with pytest.raises(SourceError, match=sentence):
        opened(tmp_path, "s.tar")


def test_missing_tars_are_counted(make_tar, png, tmp_path):
    make_tar("s-1.tar", {"a.png": png()})
    with pytest.raises(NotFoundError, match=r"s-0\.tar does not exist; 2 of its 3 tars do not exist; correct"):
        opened(tmp_path, "s-{0..2}.tar")
    with pytest.raises(NotFoundError, match=r"s-7\.tar does not exist; correct"):
        opened(tmp_path, "s-7.tar")


def test_a_pattern_that_is_none_is_explained(tmp_path):
    with pytest.raises(UsageError, match=r"is not a pattern of tars .*; write it as shards/\{000\.\.127\}\.tar"):
        opened(tmp_path, "s-{0..2.tar")
