"""An export writes and removes nothing outside its target, and in it only what an export made."""

import pytest

from tcae_cli.errors import TcaeError


@pytest.mark.parametrize(
    ("target", "export_format", "link"),
    [
        ("out", "npy", "out/.tcae"),
        ("out", "npy", "out/latents.npy.partial"),
        ("out", "dc-ae", "out/animal"),
        ("out", "webdataset", "out/.tcae_export.json.lock"),
        ("out.zip", "edm2", ".out.zip.partial/rows"),
    ],
)
def test_an_export_does_not_write_through_links(export, tmp_path, target, export_format, link):
    export(f"whole-{target}", export_format)
    outside = tmp_path / "outside"
    outside.mkdir()
    thesis = outside / "thesis.txt"
    thesis.write_text("of the user")
    begun = (tmp_path / link).parent
    begun.mkdir()
    whole = tmp_path / f"whole-{target}"
    if whole.is_dir():
        (begun / "tcae_export.json").write_bytes((whole / "tcae_export.json").read_bytes())
    is_folder = link in ("out/.tcae", "out/animal")
    (tmp_path / link).symlink_to(outside if is_folder else thesis)

    with pytest.raises(TcaeError):
        export(target, export_format)
    assert [path.name for path in outside.iterdir()] == ["thesis.txt"]
    assert thesis.read_text() == "of the user"


@pytest.mark.parametrize(
    ("target", "export_format", "where"),
    [("out", "npy", "out/.tcae/part"), ("out", "npy", "out/.tcae"), ("out.zip", "edm2", ".out.zip.partial")],
)
def test_files_of_the_user_in_an_export_stay(export, monkeypatch, tmp_path, target, export_format, where):
    export(target, export_format)
    (tmp_path / where).mkdir(parents=True)
    (tmp_path / where / "thesis.txt").write_text("of the user")
    if target == "out":
        (tmp_path / "out" / "latents.npy").unlink()  # so that there is something to do

    export(target, export_format)
    assert (tmp_path / where / "thesis.txt").read_text() == "of the user"
