"""An image list as a source."""

import pytest

from tcae_cli.errors import ImageError, SourceError
from tcae_cli.sources.source import open_source


@pytest.fixture
def opened(tmp_path):
    """Opens a list of the given text, lying beside the folder "photos"."""

    def open_list(text, folder=tmp_path):
        folder.mkdir(exist_ok=True)
        (folder / "list.txt").write_bytes(text.encode() if isinstance(text, str) else text)
        return open_source(str(folder / "list.txt"), tmp_path / "index")

    return open_list


def test_lines_are_paths_relative_to_the_list_with_perhaps_a_label(opened, make_folder, png):
    make_folder({"b.png": png(seed=1), "a b.jpg": png(seed=2), "c.png": png(seed=3)})
    source = opened("photos/c.png\r\n\nphotos/b.png\t4\n./photos/a b.jpg\t0\n")
    assert source.keys(range(3)) == ["photos/a b.jpg", "photos/b.png", "photos/c.png"]
    assert source.labels(0, 3).tolist() == [0, 4, -1]
    assert source.read(0) == png(seed=2)
    assert source.class_names == ()


def test_images_elsewhere_have_keys_relative_to_where_they_all_are(opened, make_folder, png, tmp_path):
    folder = make_folder({"x/1.png": png(seed=1), "y/2.png": png(seed=2)})
    source = opened(f"{folder}/x/1.png\n../photos/y/2.png\n", folder=tmp_path / "lists")
    assert source.keys(range(2)) == ["x/1.png", "y/2.png"]
    assert source.read(1) == png(seed=2)


def test_a_listed_file_that_is_not_there_is_a_row_that_fails(opened, make_folder, png):
    make_folder({"a.png": png()})
    source = opened("photos/a.png\nphotos/b.png\n")
    assert len(source) == 2
    with pytest.raises(ImageError, match="No such file"):
        source.read(1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\n \n", r"list\.txt lists no images; write one path a line"),
        ("a.png\ncat\tdog\n", r"list\.txt, line 2: the label should be a whole number from 0, found 'dog'"),
        ("a.png\n./a.png\n", r"list\.txt, line 2: \./a\.png was listed before; list each image once"),
        ("a.png\ns3://bucket/b.png\n", r"list\.txt lists local paths and s3:// names; make a list of each"),
        ("https://x/a.png\ns3://b/b.png\n", r"list\.txt lists https:// names and s3:// names; make a list of each"),
        (b"\xff\xfe", r"list\.txt is not UTF-8 text"),
    ],
)
def test_what_cannot_be_used_is_named(opened, text, sentence):
    with pytest.raises(SourceError, match=sentence):
        opened(text)
