"""Tar shards as a source."""

import pickle
import tarfile
from pathlib import Path

import pytest

from tcae_cli.errors import ImageError, NotFoundError, SourceError, UsageError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.sources.scan import open_source, scan
from tcae_cli.sources.source import Source


def opened(tmp_path: Path, uri: str, image: str | None = None, allow_missing: int | None = None) -> Source:
    fields = SampleFields(image=image, allow_missing=allow_missing)
    return open_source(str(tmp_path / uri), tmp_path / "index", fields)


def keys(source: Source) -> list[str]:
    return source.keys(range(len(source)))


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
    members = {"a.png": png(), "a.cls": b"7\n", "a.txt": b"from text", "a.json": b'{"width": 64}'}
    members |= {
        "d.x/b.v2.png": png(),
        "d.x/b.cls": b"3",
        "d.x/b.json": b'{"text": "from json", "n": [1]}',
        "c.png": png(),
    }
    source = opened(tmp_path, make_tar("s.tar", members).name)
    assert source.labels(0, 3).tolist() == [7, 3, -1]
    assert [source.caption(row) for row in range(3)] == ["from text", "from json", ""]


def test_sidecars_may_begin_with_a_byte_order_mark_and_a_label_may_be_none(make_tar, png, tmp_path):
    members = {"a.png": png(), "a.cls": b"\xef\xbb\xbf7\r\n", "a.txt": b"\xef\xbb\xbfone", "b.png": png()}
    members |= {"b.cls": b"-1\n", "b.json": b'\xef\xbb\xbf{"caption": "two"}'}
    source = opened(tmp_path, make_tar("s.tar", members).name)
    assert source.labels(0, 2).tolist() == [7, -1]
    assert [source.caption(row) for row in (0, 1)] == ["one", "two"]


def test_long_names_and_names_that_point_outside_are_only_names(make_tar, png, tmp_path):
    names = ["../../up.png", "/root.png", f"{'long/' * 60}x.png", "猫\n.png"]
    source = opened(tmp_path, make_tar("s.tar", {name: png() for name in names}).name)
    assert source.keys(range(4)) == [f"s.tar/{name}" for name in names]
    assert source.read(0) == source.read(3) == png()
    assert not list(tmp_path.glob("**/up.png"))
    assert not any(Path(folder, "../../up.png").exists() for folder in (tmp_path, Path.cwd()))


def test_members_of_one_name_are_rows_each_with_its_own_label_or_the_one_there_is(make_tar, png, tmp_path):
    members = [("a.png", png(seed=1)), ("a.cls", b"1"), ("./a.png", png(seed=2)), ("a.cls", b"2"), ("a.txt", b"both")]
    source = opened(tmp_path, make_tar("s.tar", members).name)
    assert keys(source) == ["s.tar/a.png", "s.tar/a.png#2"]
    assert source.labels(0, 2).tolist() == [1, 2]
    assert [source.caption(row) for row in (0, 1)] == ["both", "both"]
    assert [source.read(row) for row in (0, 1)] == [png(seed=1), png(seed=2)]


def test_labels_that_cannot_be_paired_are_a_problem_of_their_images(make_tar, png, tmp_path, problems):
    members = [*[("a.png", png())] * 3, *[("a.cls", b"1")] * 2, ("b.png", png())]
    source = opened(tmp_path, make_tar("s.tar", members).name)
    problem = "s.tar: a.cls appears 2 times for 3 images; make it one for each"
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
def test_a_malformed_label_or_caption_costs_its_row_alone(make_tar, png, tmp_path, sidecar, data, problem, problems):
    make_tar("s.tar", {"a.png": png(), sidecar: data, "b.png": png(), "b.cls": b"3"})
    source = opened(tmp_path, "s.tar")
    assert list(problems(source)) == ["s.tar/a.png"] and problem in source.problem(0)
    assert source.label(1) == 3 and source.read(1) == png()


def test_a_label_without_an_image_is_a_row_that_says_so(make_tar, png, tmp_path, problems):
    source = opened(tmp_path, make_tar("s.tar", {"a.png": png(), "b.cls": b"1", "b.json": b"{}", "c.png": png()}).name)
    assert keys(source) == ["s.tar/a.png", "s.tar/b", "s.tar/c.png"]
    assert problems(source) == {"s.tar/b": "has a label or caption but no image"}


def test_a_caption_without_an_image_is_a_row_only_where_images_have_captions(make_tar, png, tmp_path):
    make_tar("s-0.tar", {"a.png": png(), "README.txt": b"about", "a.seg.json": b"{}"})
    make_tar("s-1.tar", {"a.png": png(), "a.txt": b"one", "b.txt": b"two"})
    source = opened(tmp_path, "s-{0..1}.tar")
    assert keys(source) == ["s-0.tar/a.png", "s-1.tar/a.png", "s-1.tar/b"]


def test_links_inside_a_tar_are_rows_not_gaps(tmp_path, png, problems):
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
    with pytest.raises(SourceError, match=r"s\.tar/a\.png appears twice"):
        opened(tmp_path, "{s,s}.tar")


def test_missing_tars_are_counted(make_tar, png, tmp_path):
    make_tar("s-1.tar", {"a.png": png()})
    sentence = (
        r"s-\{0\.\.2}\.tar lacks 2 of its 3 files: s-0\.tar, s-2\.tar; correct it, or pass --allow-missing 2 to pass"
    )
    with pytest.raises(NotFoundError, match=sentence):
        opened(tmp_path, "s-{0..2}.tar")
    with pytest.raises(
        NotFoundError, match=r"s-5\.tar does not exist, and neither does any other of its 4 files; corr"
    ):
        opened(tmp_path, "s-{5..8}.tar", allow_missing=9)
    with pytest.raises(NotFoundError, match=r"s-7\.tar does not exist; correct"):
        opened(tmp_path, "s-7.tar")


def test_missing_tars_are_passed_over_as_far_as_that_is_allowed(make_tar, png, tmp_path):
    for number in (3, 20):
        make_tar(f"s-{number:03}.tar", {"a.png": png(seed=number)})
    source = opened(tmp_path, "s-{000..020}.tar", allow_missing=19)
    assert keys(source) == ["s-003.tar/a.png", "s-020.tar/a.png"] and source.read(1) == png(seed=20)
    [remark] = source.remarks
    assert remark.startswith(f"{tmp_path}/s-{{000..020}}.tar lacks 19 of its 21 files, which --allow-missing permits: ")
    assert remark.endswith(": s-000.tar, s-001.tar, s-002.tar, s-004.tar, s-005.tar, ...")
    with pytest.raises(
        NotFoundError, match=r"lacks 19 of its 21 files, more than --allow-missing 18: s-000.tar, .* 19 "
    ):
        opened(tmp_path, "s-{000..020}.tar", allow_missing=18)
    assert opened(tmp_path, "s-003.tar", allow_missing=1).remarks == ()


def test_a_pattern_that_is_none_is_explained(tmp_path):
    with pytest.raises(UsageError, match=r"is not a pattern \(.*\); write it as shards/\{000\.\.127\}\.tar"):
        opened(tmp_path, "s-{0..2.tar")


def test_a_glob_may_leave_out_what_makes_its_files_tars(make_tar, png, tmp_path):
    for name in ("train_9f.tar", "train_0c.tgz", "val.tar"):
        make_tar(name, {"a.png": png()})
    assert keys(opened(tmp_path, "train_*")) == ["train_0c.tgz/a.png", "train_9f.tar/a.png"]
    (tmp_path / "train_stats.json").write_text("{}")
    with pytest.raises(
        SourceError, match=r"train_\* matches 1 with .tgz, 1 with .tar, 1 with .json, which are not of one"
    ):
        opened(tmp_path, "train_*")


def test_a_glob_names_tars_by_sorted_name(make_tar, png, tmp_path):
    for name in ("train_b", "train_a", "val", "x[1]"):
        make_tar(f"{name}.tar", {"a.png": png()})
    (tmp_path / "train_c.tar").mkdir()
    assert keys(opened(tmp_path, "train_*.tar")) == ["train_a.tar/a.png", "train_b.tar/a.png"]
    assert keys(opened(tmp_path, "{val,train_?}.tar")) == ["val.tar/a.png", "train_a.tar/a.png", "train_b.tar/a.png"]
    assert keys(opened(tmp_path, "train_[!a].tar")) == ["train_b.tar/a.png"]
    assert keys(opened(tmp_path, "x[1].tar")) == ["x[1].tar/a.png"]
    with pytest.raises(NotFoundError, match=r"test_\*\.tar matches no file; correct it"):
        opened(tmp_path, "test_*.tar")


def test_keys_of_a_glob_stay_when_it_finds_more(make_tar, png, tmp_path):
    (tmp_path / "x").mkdir()
    make_tar("x/0.tar", {"a.png": png()})
    assert keys(opened(tmp_path, "*/0.tar")) == keys(opened(tmp_path, "**/0.tar")) == ["x/0.tar/a.png"]
    (tmp_path / "y").mkdir()
    make_tar("y/0.tar", {"a.png": png()})
    assert keys(opened(tmp_path, "*/0.tar")) == ["x/0.tar/a.png", "y/0.tar/a.png"]


def test_a_folder_that_holds_tars_and_no_images_is_its_tars(make_folder, make_tar, png, tmp_path):
    make_folder({"b/README.md": b""})
    for name in ("b/0.tar", "a.tgz"):
        make_tar(f"photos/{name}", {"a.png": png(), "a.cls": b"4"})
    source = opened(tmp_path, "photos")
    assert keys(source) == ["a.tgz/a.png", "b/0.tar/a.png"] and source.labels(0, 2).tolist() == [4, 4]
    assert source.passed_over == {".md": 1}
    assert keys(opened(tmp_path, "photos", image="png")) == keys(source)
    make_folder({"b/1.png": png()})
    assert keys(opened(tmp_path, "photos")) == ["b/1.png"]
    with pytest.raises(UsageError, match=r"--image: .*photos is a folder of images, which has nothing to choose by it"):
        opened(tmp_path, "photos", image="png")


@pytest.fixture
def masked(make_tar, png) -> None:
    """A tar of two samples, of a photograph, a mask and a label each."""
    make_tar("s.tar", {f"d/{n}.{end}": png(seed=n) for n in (0, 1) for end in ("Seg.PNG", "JPG")} | {"d/1.cls": b"1"})


def test_samples_with_several_images_are_refused_with_the_choice_to_make(masked, tmp_path):
    with pytest.raises(
        SourceError,
        match=r"^s\.tar: sample d/0 has several images \(seg\.png, jpg\); name the one to take, as in --image jpg, or "
        r'make a row of each with --image "\*"$',
    ):
        opened(tmp_path, "s.tar")


@pytest.mark.parametrize(
    ("image", "names"),
    [
        ("jpg", ["0.JPG", "1.JPG"]),
        (".JPG", ["0.JPG", "1.JPG"]),
        ("seg.png", ["0.Seg.PNG", "1.Seg.PNG"]),
        ("jpg, seg.png", ["0.Seg.PNG", "0.JPG", "1.Seg.PNG", "1.JPG"]),
        ("*", ["0.Seg.PNG", "0.JPG", "1.Seg.PNG", "1.JPG"]),
    ],
)
def test_the_images_of_samples_are_chosen_by_extension(masked, tmp_path, image, names):
    source = opened(tmp_path, "s.tar", image)
    assert keys(source) == [f"s.tar/d/{name}" for name in names]
    assert source.label(len(names) - 1) == 1
    assert sum(source.passed_over.values()) == 4 - len(names)


def test_an_extension_that_no_image_has_is_answered_with_those_there_are(masked, tmp_path):
    sentence = (
        r"^--image webp: .*s\.tar holds no images with that extension, only 2 with \.png, 2 with \.jpg; correct it$"
    )
    with pytest.raises(UsageError, match=sentence):
        opened(tmp_path, "s.tar", "webp")


def test_one_image_a_sample_needs_no_choice_whatever_their_extensions(make_tar, png, tmp_path):
    make_tar("s.tar", [("a.png", png()), ("b.v2.png", png()), ("c.jpg", png()), ("a.PNG", png()), ("a.png", png())])
    names = ["a.png", "b.v2.png", "c.jpg", "a.PNG", "a.png#2"]
    assert keys(opened(tmp_path, "s.tar")) == [f"s.tar/{name}" for name in names]


def test_images_are_counted_as_they_are_found_in_a_tar(make_tar, png, tmp_path):
    make_tar("s.tgz", {"a.png": png(), "a.cls": b"1", "b.png": png(), "c.cls": b"2"})
    counts: list[int] = []
    scan(str(tmp_path / "s.tgz"), on_progress=counts.append)
    assert counts == [1, 2, 3]  # at last the rows, with that of the label that has no image


def test_members_that_are_neither_images_nor_beside_them_are_counted(make_tar, png, tmp_path):
    make_tar("s-0.tar", {"a.png": png(), "a.cls": b"1", "a.txt": b"", "a.json": b"{}", "a.npy": b"", ".x.npy": b""})
    make_tar("s-1.tar", {"a.png": png(), "a.mp3": b"", "b.NPY": b""})
    assert opened(tmp_path, "s-{0..1}.tar").passed_over == {".npy": 2, ".mp3": 1}


def test_folders_inside_tars_are_classes_below_the_folder_that_all_share(make_tar, png, tmp_path):
    make_tar("s-0.tar", {"photos/train/cat/1.png": png(), "photos/train/dog/x/2.png": png(seed=1)})
    make_tar("s-1.tar", {"photos/train/ant/3.png": png(seed=2), "photos/train/4.png": png(seed=3)})
    source = opened(tmp_path, "s-{0..1}.tar")
    assert source.class_names == ("ant", "cat", "dog") and source.labels(0, 4).tolist() == [1, 2, 0, -1]
    assert source.labels_from == {"class folders": 3}
    assert opened(tmp_path, "s-1.tar").class_names == ()  # one folder divides nothing


def test_labels_of_all_tars_are_numbered_together(make_tar, png, tmp_path):
    make_tar("s-0.tar", {"a.png": png(), "a.json": b'{"label": "dog"}'})
    make_tar("s-1.tar", {"b.png": png(seed=1), "b.json": b'{"label": "cat"}', "c.png": png(seed=2), "c.cls": b"7"})
    source = opened(tmp_path, "s-{0..1}.tar")
    assert source.class_names == ("7", "cat", "dog") and source.labels(0, 3).tolist() == [2, 1, 0]


def test_members_that_describe_no_image_are_counted(make_tar, png, tmp_path):
    make_tar("s.tar", {"a.png": png(), "a.txt": b"one", "README.md": b"", "z.caption": b"two", "LICENSE.json": b"{}"})
    assert opened(tmp_path, "s.tar").passed_over == {".md": 1, ".caption": 1, ".json": 1}


def test_several_images_in_a_system_folder_need_no_choice(make_tar, png, tmp_path):
    source = opened(tmp_path, make_tar("s.tar", {"a.png": png(), "@eaDir/a.png": png(), "@eaDir/a.jpg": png()}).name)
    assert keys(source) == ["s.tar/a.png"]
