"""A tar is read front to back, from any place and with any damage; and patterns expand to many tars."""

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs

from tcae_cli.errors import NotFoundError, SourceError, UsageError
from tcae_cli.training.views.tar_stream import expand_tars, is_stream, read_images

FIVE = {f"{number}.png": b"image %d" % number for number in range(5)}  # names identify the images
READ = list(enumerate(FIVE.values()))


@pytest.fixture
def tar(make_tar) -> Path:
    return make_tar("s-0.tar", FIVE)


def test_parts_of_a_tar_share_its_images_and_each_knows_its_place(tar):
    assert list(read_images(str(tar))) == READ
    assert [list(read_images(str(tar), part, 3)) for part in range(3)] == [READ[0::3], READ[1::3], READ[2::3]]


def test_what_is_no_image_has_no_place(make_tar):
    tar = make_tar("s.tar", {"a.cls": b"1", "a.png": b"a", "._a.png": b"hidden", "d/b.JPG": b"b", "d/b.txt": b"text"})
    assert list(read_images(str(tar))) == [(0, b"a"), (1, b"b")]


def test_a_pipe_is_a_stream_and_a_pattern_in_it_is_expanded():
    uri = "pipe:cat shards/s-{0..1}.tar | cat"
    assert is_stream(uri) and not is_stream("shards/s-0.tar")
    assert expand_tars(uri) == ("pipe:cat shards/s-0.tar | cat", "pipe:cat shards/s-1.tar | cat")


def test_what_a_command_writes_is_read_compressed_or_not(tar):
    assert list(read_images(f"pipe:cat {tar} | cat")) == READ
    assert list(read_images(f"pipe:gzip -c {tar}")) == READ


def test_a_local_tar_may_be_compressed_too(tar):
    tar.write_bytes(gzip.compress(tar.read_bytes()))
    assert list(read_images(str(tar))) == READ


def test_a_command_that_fails_is_told_after_what_it_gave(tar):
    given = []
    with pytest.raises(SourceError, match=r"s-0\.tar; exit 3 cannot be read \(exit code 3\); run the command by hand"):
        given.extend(read_images(f"pipe:cat {tar}; exit 3"))
    assert given == READ
    with pytest.raises(SourceError, match=r"pipe:cat nothing\.tar 2> /dev/null cannot be read \(exit code 1\)"):
        list(read_images("pipe:cat nothing.tar 2> /dev/null"))


def test_a_tar_that_goes_away_is_told(tar):
    tar.unlink()
    with pytest.raises(SourceError) as raised:
        list(read_images(str(tar)))
    fix = "restore it or correct its permissions, then continue with --resume"
    assert str(raised.value) == f"{tar} cannot be read (No such file or directory); {fix}"


def test_a_remote_tar_that_goes_away_is_told(tar, put, bucket):
    uri = f"{put({'s-0.tar': tar.read_bytes()})}/s-0.tar"
    assert list(read_images(uri)) == READ
    s3fs.S3FileSystem().rm_file(uri)
    with pytest.raises(SourceError, match=r"s-0\.tar cannot be read \(No such file .*\); check your credentials"):
        list(read_images(uri))


def test_a_link_counts_as_an_image_that_cannot_be_read(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "b.png").hardlink_to(tmp_path / "a.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "d.png").write_bytes(b"d")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("a.png", "b.png", "c.png", "d.png"):
            tar.add(tmp_path / name, name)
    assert list(read_images(str(tmp_path / "s.tar"))) == [(0, b"a"), (1, None), (2, None), (3, b"d")]


def damaged_header(tar: bytes) -> bytes:
    start = tar.index(b"3.png")
    return tar[:start] + b"\xff" * 512 + tar[start + 512 :]


def cut_at_a_header(tar: bytes) -> bytes:
    return tar[: tar.index(b"3.png")]


def cut_inside_an_image(tar: bytes) -> bytes:
    return tar[: tar.index(b"image 3") + 4]


@pytest.mark.parametrize("damage", [damaged_header, cut_at_a_header, cut_inside_an_image])
def test_a_damaged_tar_gives_what_it_still_holds_and_one_failure_for_the_rest(tar, damage: Callable[[bytes], bytes]):
    tar.write_bytes(damage(tar.read_bytes()))
    assert list(read_images(str(tar))) == [*READ[:3], (3, None)]


def test_something_else_than_a_tar_is_one_failure(tmp_path):
    (tmp_path / "s.tar").write_bytes(b"no tar at all")
    assert list(read_images(str(tmp_path / "s.tar"))) == [(0, None)]


def test_a_pattern_names_tars_in_its_order_and_a_missing_one_is_told(make_tar, tmp_path):
    paths = tuple(str(make_tar(f"s-{number}.tar", FIVE)) for number in (2, 0, 1))
    assert expand_tars(f"{tmp_path}/s-{{2,0,1}}.tar") == paths
    Path(paths[1]).unlink()
    with pytest.raises(NotFoundError, match=r"s-\{2,0,1}\.tar lacks 1 of its 3 files: s-0\.tar; correct"):
        expand_tars(f"{tmp_path}/s-{{2,0,1}}.tar")


def test_folders_and_lists_are_no_tars(make_folder, tmp_path):
    (tmp_path / "list.txt").write_text("photos/a.png\n")
    for uri in (str(make_folder({"a.png": b"a"})), str(tmp_path / "list.txt"), "s3://bucket/photos"):
        with pytest.raises(SourceError) as raised:
            expand_tars(uri)
        assert str(raised.value) == (
            f"{uri} has its images in files of their own, and data.shuffle_buffer is for images that lie together, as "
            f"in tars; omit it from the recipe"
        )


def test_a_pattern_of_commands_that_is_none_is_explained():
    with pytest.raises(UsageError, match=r"is not a pattern \(.*\); write it as pipe:cat \{000\.\.127\}\.tar"):
        expand_tars("pipe:cat s-{0..2.tar")
