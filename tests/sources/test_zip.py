"""Zip archives as a source."""

import io
import json
import pickle
import random
import stat
import struct
import zipfile
from collections.abc import Callable

import pytest

from tcae_cli.errors import ImageError, SourceError, TcaeError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.sources.scan import open_source
from tcae_cli.sources.source import Source

from ..pictures import write_zip


@pytest.fixture
def opened(tmp_path) -> Callable[..., Source]:
    """Opens a zip of named members, or the file of that name."""

    def open_zip(members, name="photos.zip", compression=zipfile.ZIP_STORED, **fields) -> Source:
        write_zip(tmp_path / name, members, compression)
        return open_source(str(tmp_path / name), tmp_path / "index", SampleFields(**fields))

    return open_zip


def keys(source: Source) -> list[str]:
    return source.keys(range(len(source)))


def test_edm2s_archives_have_their_labels_in_dataset_json(opened, png):
    names = [f"0000{number // 2}/img0000000{number}.png" for number in range(4)]
    members = {name: png(seed=number) for number, name in enumerate(names)}
    labels = [[name, number] for name, number in zip(names, (7, 0, -1), strict=False)]
    source = opened(members | {"dataset.json": json.dumps({"labels": labels}).encode()})
    assert keys(source) == [f"photos.zip/{name}" for name in names]
    assert source.labels(0, 4).tolist() == [7, 0, -1, -1] and source.class_names == ()
    assert not source.passed_over
    assert list(source.read_many([3, 0])) == [png(seed=3), png(seed=0)]


def test_numbered_folders_beside_a_dataset_json_without_labels_are_no_classes(opened, png):
    members = {f"0000{number}/img0000000{number}.png": png() for number in range(3)}
    source = opened(members | {"dataset.json": b'{"labels": null}'})
    assert source.labels(0, 3).tolist() == [-1] * 3 and source.class_names == ()


def test_a_zip_is_a_folder_in_a_file(opened, png):
    members = [("photos/", b""), ("photos/b/2.png", png(seed=2)), ("photos/a/1.png", png(seed=1))]
    members += [("photos/a/1.txt", b"one"), ("photos/b/notes.md", b"-"), ("photos/.hidden.png", b"")]
    source = opened([*members, ("__MACOSX/photos/a/._1.png", b"mac"), ("__MACOSX/photos/2.png", b"mac")])
    assert keys(source) == ["photos.zip/photos/a/1.png", "photos.zip/photos/b/2.png"]
    assert source.class_names == ("a", "b") and source.labels(0, 2).tolist() == [0, 1]
    assert [source.caption(row) for row in (0, 1)] == ["one", ""]
    assert source.passed_over == {".md": 1} and "__MACOSX/photos/2.png" in source.remarks[0]


def test_classes_are_numbered_over_all_zips_of_a_pattern(png, tmp_path):
    for number, label in enumerate(("dog", "ant", "dog")):
        write_zip(tmp_path / f"{number}.zip", {f"{label}/{number}.png": png(seed=number)})
    source = open_source(str(tmp_path / "{0..3}.zip"), tmp_path / "index", SampleFields(allow_missing=1))
    assert keys(source) == ["0.zip/dog/0.png", "1.zip/ant/1.png", "2.zip/dog/2.png"]
    assert source.class_names == ("ant", "dog") and source.labels(0, 3).tolist() == [1, 0, 1]
    assert source.remarks == (f"{tmp_path}/{{0..3}}.zip lacks 1 of its 4 files, which --allow-missing permits: 3.zip",)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_however_they_were_written(opened, png, tmp_path, compression):
    path = tmp_path / "piped.zip"
    with path.open("wb") as file, zipfile.ZipFile(NotSeekable(file), "w", compression) as archive:  # as `zip -` does
        for number in range(3):
            archive.writestr(f"{number}.png", png(seed=number))
    source = open_source(str(path), tmp_path / "index")
    assert [source.read(row) for row in (2, 0, 1)] == [png(seed=2), png(seed=0), png(seed=1)]
    assert pickle.loads(pickle.dumps(source)).read(1) == png(seed=1)

    text = b"P5 40 40 255 " + bytes(1600)  # which deflates well
    incompressible = random.Random(0).randbytes(70_000)
    source = opened({"a.pgm": text, "b.png": incompressible, "c.png": png()}, compression=compression)
    assert [source.read(row) for row in range(3)] == [text, incompressible, png()]


class NotSeekable(io.RawIOBase):
    """A pipe."""

    def __init__(self, file) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        return self._file.write(data)


def test_a_zip_behind_other_bytes_and_with_large_headers_is_read(png, tmp_path):
    path = tmp_path / "behind.zip"
    path.write_bytes(b"#!/bin/sh\n" * 100)
    with zipfile.ZipFile(path, "a") as archive:
        member = zipfile.ZipInfo("a.png")
        member.extra = struct.pack("<HH", 0x7777, 500) + bytes(500)
        archive.writestr(member, png())
    assert open_source(str(path), tmp_path / "index").read(0) == png()


def test_names_that_lead_out_are_only_names(opened, png, tmp_path):
    source = opened({"../../up.png": png(seed=1), "/root.png": png(seed=2), "a/../../b.png": png(seed=3)})
    assert sorted(keys(source)) == ["photos.zip/../../up.png", "photos.zip//root.png", "photos.zip/a/../../b.png"]
    assert [source.read(row) for row in range(3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "photos.zip"]


def test_members_of_one_name_are_rows_each(opened, png):
    with pytest.warns(UserWarning, match="Duplicate name"):
        source = opened([("a.png", png(seed=1)), ("a.png", png(seed=2))])
    assert keys(source) == ["photos.zip/a.png", "photos.zip/a.png#2"]
    assert [source.read(row) for row in (0, 1)] == [png(seed=1), png(seed=2)]


def test_what_cannot_be_read_by_position_is_a_row_that_says_so(png, tmp_path, problems):
    link = zipfile.ZipInfo("b.png")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("a.png", png(), zipfile.ZIP_LZMA)
        archive.writestr(link, "../secret.png")
        archive.writestr("c.png", png())
        archive.writestr("d.png", png())
    data = bytearray((tmp_path / "s.zip").read_bytes())
    data[data.rindex(b"PK\1\2", 0, data.rindex(b"PK\1\2")) + 8] |= 1  # the flag of a password, of c.png
    (tmp_path / "s.zip").write_bytes(data)
    source = open_source(str(tmp_path / "s.zip"), tmp_path / "index")
    assert problems(source) == {
        "s.zip/a.png": "is compressed by method 14; make the zip with deflate, or without compression",
        "s.zip/b.png": "is a link inside a zip; make the zip without --symlinks",
        "s.zip/c.png": "is encrypted; make the zip without a password",
    }
    assert source.read(3) == png()


def test_a_damaged_member_costs_its_row_alone(opened, png, tmp_path):
    source = opened({"a.png": png(seed=1), "b.png": png(seed=2), "c.png": png(seed=3)})
    path = tmp_path / "photos.zip"
    whole = path.read_bytes()
    start = whole.index(png(seed=2))
    for place, reason in (
        (start + 60, r"photos\.zip is damaged at byte [\d,]+, or has changed since it was indexed; copy it again"),
        (whole.index(b"PK\3\4", 1), r"photos\.zip is damaged at byte [\d,]+"),
    ):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ImageError, match=reason) as raised:
            source.read(1)
        assert raised.value.stage == "read" and source.read(0) == png(seed=1) and source.read(2) == png(seed=3)
    path.write_bytes(whole[: start + 60])
    with pytest.raises(ImageError, match=r"photos\.zip is shorter than when it was indexed"):
        source.read(1)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", r"photos\.zip is not a zip archive, or is damaged \(File is not a zip file\); copy it again"),
        (b"<html>404", r"photos\.zip is not a zip archive, or is damaged"),
        (None, r"photos\.zip is not a zip archive, or is damaged"),
    ],
)
def test_a_zip_that_is_cut_or_none_is_one_sentence(opened, png, tmp_path, data, sentence):
    opened({"a.png": png(), "b.png": png()})
    path = tmp_path / "photos.zip"
    path.write_bytes(path.read_bytes()[:-30] if data is None else data)
    with pytest.raises(SourceError, match=sentence):
        open_source(str(path), tmp_path / "index")


def test_a_zip_without_images_says_what_it_holds(opened):
    with pytest.raises(SourceError, match=r"photos\.zip holds no images, only other members \(2 with \.npy, 1 with "):
        opened({"a.npy": b"", "b.npy": b"", "c.md": b""})


def test_a_folder_of_zips_says_how_to_name_them(opened, png, tmp_path):
    opened({"a.png": png()}, name="zips.zip")
    (tmp_path / "zips").mkdir()
    (tmp_path / "zips.zip").rename(tmp_path / "zips/0.zip")
    with pytest.raises(
        SourceError, match=rf"holds no images, .*1 with \.zip\); .*, give {tmp_path}/zips/\*\.zip$"
    ) as raised:
        open_source(f"{tmp_path}/zips/", tmp_path / "index")
    assert open_source(str(raised.value).split()[-1], tmp_path / "index").read(0) == png()


def test_texts_that_cannot_be_read_are_named(opened, png, tmp_path):
    opened({"a.png": png(), "a.txt": b"a caption", "metadata.csv": b"file_name,text\nb.png,b"})
    path = tmp_path / "photos.zip"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"a caption", b"A caption"))
    problem = open_source(str(path), tmp_path / "index").problem(0)
    assert f"{path}/a.txt cannot be read (damaged in the zip: Bad CRC-32 for file 'a.txt')" in problem
    path.write_bytes(whole.replace(b"b.png,b", b"b.png,c"))
    with pytest.raises(SourceError, match=r"photos\.zip/metadata\.csv cannot be read \(damaged in the zip: Bad CRC-32"):
        open_source(str(path), tmp_path / "index")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_no_byte_of_a_zip_brings_a_traceback(opened, png, tmp_path, compression):
    members = {"a/1.png": png(), "a/1.txt": b"caption", "b/2.png": png(seed=2), "dataset.json": b'{"labels": null}'}
    opened(members, compression=compression)
    path = tmp_path / "photos.zip"
    whole = path.read_bytes()
    directory = whole.index(b"PK\1\2")
    chance = random.Random(0)
    for _ in range(50):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 3))):
            data[chance.randrange(chance.choice((0, directory)), len(data))] = chance.choice(
                (0, 255, chance.randrange(256))
            )
        path.write_bytes(data[: chance.choice((len(data), len(data), chance.randrange(len(data))))])
        try:
            source = open_source(str(path), tmp_path / "index")
            for row, key in enumerate(keys(source)):
                (found,) = source.read_many([row])
                if not isinstance(found, ImageError) and key.endswith(("a/1.png", "b/2.png")):
                    assert found == members[key.removeprefix("photos.zip/")]
        except TcaeError as error:
            assert "photos.zip" in str(error)
