"""Nothing outside a store is written or removed, whatever lies in the store, and in it nothing that is not ours."""

import json
import shutil
from pathlib import Path

import pytest

from tcae_cli.errors import DiskError, StoreError, TcaeError
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.store.commit import finalise, remove_old_indexes
from tcae_cli.store.handle import StoreHandle

from .conftest import write_shards

OUT_OF_THE_FOLDER = ["../victim", "/tmp/victim", "a/../../victim", "", "a//b", "./a", "a\0b"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def move_out(store: Path, name: str, outside: Path) -> Path:
    """Move a folder of a store elsewhere, among files of the user, and put a link in its place."""
    target = outside / name
    target.parent.mkdir(parents=True, exist_ok=True)
    (store / name).mkdir(exist_ok=True)
    shutil.move(store / name, target)
    (target / "thesis.txt").write_text("of the user")
    (store / name).symlink_to(target)
    return target


@pytest.fixture
def folder(tmp_path) -> LocalFolder:
    """An empty folder that is reached through a link, beside one that is none of its business."""
    (tmp_path / "real").mkdir()
    (tmp_path / "store").symlink_to("real")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "thesis.txt").write_text("of the user")
    return LocalFolder(tmp_path / "store")


@pytest.mark.parametrize("name", OUT_OF_THE_FOLDER)
def test_a_name_that_leads_out_of_the_folder_is_neither_written_nor_removed(folder, name):
    for touch in (lambda: folder.write({name: b""}), lambda: folder.create(name, b""), lambda: folder.remove([name])):
        with pytest.raises(DiskError, match=r"is not the name of a file inside .*store, so it is neither written nor"):
            touch()
    assert sorted(path.name for path in folder.path.parent.iterdir()) == ["outside", "real", "store"]


@pytest.mark.parametrize("name", ["link/thesis.txt", "sub/link/thesis.txt", "link/new"])
def test_nothing_is_written_or_removed_through_a_link(folder, name):
    (folder.path / "sub").mkdir()
    for link in (folder.path / "link", folder.path / "sub" / "link"):
        link.symlink_to(folder.path.parent / "outside")
    for touch in (lambda: folder.write({name: b""}), lambda: folder.create(name, b""), lambda: folder.remove([name])):
        with pytest.raises(DiskError, match=r"/link is a symbolic link, and nothing is written or removed through"):
            touch()
    assert files_of(folder.path.parent / "outside") == {"thesis.txt": b"of the user"}


def test_a_file_that_is_a_link_is_replaced_or_removed_itself(folder):
    thesis = folder.path.parent / "outside" / "thesis.txt"
    for name in ("written", "removed"):
        (folder.path / name).symlink_to(thesis)
    folder.write({"written": b"ours"})
    folder.remove(["removed"])
    assert thesis.read_text() == "of the user"
    assert files_of(folder.path) == {"written": b"ours"} and not (folder.path / "written").is_symlink()


@pytest.mark.parametrize("name", [".tcae", ".tcae/part", ".tcae/leases", ".tcae/index", "labels", "latents"])
def test_a_store_with_a_link_in_it_is_refused_and_nothing_outside_changes(photos, encode, tmp_path, name):
    store, source = tmp_path / "store.zarr", tmp_path / "photos"
    shutil.copytree(photos, source)
    encode(source, store)
    outside = move_out(store, name, tmp_path / "outside")
    shutil.copy(source / "animal" / "0.jpg", source / "animal" / "another.jpg")
    before = files_of(outside)

    with pytest.raises(TcaeError, match=rf"^{store / name} is a symbolic link, and nothing is written or removed"):
        encode(source, store, append=True)
    assert files_of(outside) == before


@pytest.mark.parametrize("name", ["statistics", "failures", "status", ".tcae/commits"])
def test_a_store_is_neither_written_nor_finished_through_a_link(make_store, tmp_path, name):
    path = make_store(shards=[0, 1])
    outside = move_out(path, name, tmp_path / "outside")
    before = files_of(outside)

    with pytest.raises(DiskError, match=rf"^{path / name} is a symbolic link"):
        write_shards(path, [2])
        finalise(StoreHandle(LocalFolder(path)))
    assert files_of(outside) == before


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("views", {"../../victim": {"size": 64, "flip": False, "height": 2, "width": 3}}),
        ("views", {"latents/../../victim": {"size": 64, "flip": False, "height": 2, "width": 3}}),
        ("views", {"labels": {"size": 64, "flip": False, "height": 2, "width": 3}}),
        ("source", {"uri": "photos", "count": 40, "fingerprint": "../../../victim", "class_names": []}),
    ],
)
def test_a_root_whose_names_lead_out_of_the_store_is_damaged(make_store, key, wrong):
    path = make_store()
    root = json.loads((path / "zarr.json").read_bytes())
    found = root["attributes"][key]
    root["attributes"][key] = found | wrong if key == "views" else wrong
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match=r"zarr\.json is damaged: .*; restore it from a copy"):
        StoreHandle(LocalFolder(path))


def test_files_of_the_user_in_a_store_stay(make_store):
    path = make_store(shards=[0, 1])
    users = ["notes.txt", "statistics/notes.txt", "failures/plot.png", ".tcae/index/notes.txt", "labels/notes.txt"]
    for name in users:
        (path / name).parent.mkdir(exist_ok=True, parents=True)
        (path / name).write_text("of the user")
    store = StoreHandle(LocalFolder(path))
    write_shards(path, [2])
    assert finalise(store)
    remove_old_indexes(store)
    assert all((path / name).read_text() == "of the user" for name in users)
