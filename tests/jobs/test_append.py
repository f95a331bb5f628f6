"""Images that are new in a source become rows after those that are there, which stay as they are."""

import bz2
import shutil

import numpy as np
import pytest
import zarr

from tcae_cli.jobs import encode as encode_job
from tcae_cli.jobs.verify import verify_store
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.store import VerifyRequest
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.store.commit import reopen
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.record import read_unchecked, write_record

from ..heard import Heard
from ..pictures import write_tar
from ..store_contents import refused
from .conftest import Killed


@pytest.fixture
def grown(photos, tmp_path, encode):
    """A store of 24 images, and their source, which has three more by now: of a class before, between and after."""
    source = shutil.copytree(photos, tmp_path / "photos")
    path = tmp_path / "store.zarr"
    encode(source, path)
    for name in ("aardvark/1.jpg", "person/20.jpg", "zebra/1.jpg"):
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(photos / "thing" / "7.jpg", source / name)
    return source, path


def test_new_images_are_refused_with_the_way_to_add_them(grown, encode):
    source, path = grown
    said = refused(encode, source, path)
    assert "3 new (aardvark/1.jpg, person/20.jpg, zebra/1.jpg); pass --append to add the new ones as rows" in said


def test_appended_rows_come_after_the_others_in_their_own_order(grown, encode):
    source, path = grown
    before = LatentStore(path)
    old, hashes, latents = before.keys(range(24)), before.content_hash(), before.latents(range(24))
    first_shard = (path / "latents" / "c.0.0.0.0").read_bytes()

    heard = Heard()
    report = encode(source, path, heard, append=True)
    assert (report.num_encoded_now, report.num_ok, report.complete) == (3, 27, True)
    assert any("3 new (aardvark/1.jpg, person/20.jpg, zebra/1.jpg)" in sentence for sentence in heard.said)
    after = LatentStore(path)
    assert after.keys(range(27)) == [*old, "aardvark/1.jpg", "person/20.jpg", "zebra/1.jpg"]
    assert after.latents(range(24)).tobytes() == latents.tobytes()
    assert (path / "latents" / "c.0.0.0.0").read_bytes() == first_shard
    assert after.content_hash()[:24].tolist() == hashes.tolist()
    assert after.content_hash()[24:].tolist() == [hashes[23]] * 3  # the same picture
    assert np.allclose(after.latents([24, 25, 26]), latents[[23, 23, 23]], atol=2e-3)
    assert after.summaries["latents"]["num_rows"] == 27
    assert zarr.open_group(path, mode="r")["latents"].shape[0] == 27


def test_new_classes_take_new_numbers(grown, encode):
    source, path = grown
    encode(source, path, append=True)
    store = LatentStore(path)
    assert store.spec.source.class_names == ["animal", "person", "thing", "aardvark", "zebra"]
    assert store.labels().tolist() == [0] * 8 + [1] * 8 + [2] * 8 + [3, 1, 4]


def test_what_was_appended_is_part_of_the_source_from_then_on(grown, encode):
    source, path = grown
    encode(source, path, append=True)
    for append in (True, False):
        assert encode(source, path, append=append).num_encoded_now == 0
    (source / "zebra" / "1.jpg").unlink()
    assert "1 vanished (zebra/1.jpg)" in refused(encode, source, path)


def test_changed_and_vanished_images_are_told_of_and_their_rows_kept(grown, encode):
    source, path = grown
    shutil.copy(source / "thing" / "0.jpg", source / "animal" / "1.jpg")
    (source / "animal" / "2.jpg").unlink()
    said = refused(encode, source, path)
    assert "3 new (" in said and "1 changed (animal/1.jpg (" in said and "1 vanished (animal/2.jpg); put them" in said

    latents, heard = LatentStore(path).latents(range(24)), Heard()
    assert encode(source, path, heard, append=True).num_encoded_now == 3
    assert any("1 changed (animal/1.jpg (" in line and "1 vanished (animal/2.jpg)" in line for line in heard.said)
    assert "rows of changed and vanished images stay as they were encoded" in heard.said
    after = LatentStore(path)
    assert after.keys([1, 2]) == ["animal/1.jpg", "animal/2.jpg"]
    assert after.latents(range(24)).tobytes() == latents.tobytes()


@pytest.mark.parametrize("broken", ["cut in a header", "compressed"])
def test_a_tar_that_was_repaired_is_continued_with_append(photos, tmp_path, encode, broken):
    images = {f"{number}.jpg": (photos / "animal" / f"{number}.jpg").read_bytes() for number in range(2)}
    tar, store = write_tar(tmp_path / "s.tar", images), tmp_path / "store.zarr"
    whole = tar.read_bytes()
    tar.write_bytes(bz2.compress(whole) if broken == "compressed" else whole[: whole.index(b"1.jpg") + 100])
    encode(tar, store, max_failures="100%")
    tar.write_bytes(whole)
    said = refused(encode, tar, store)
    assert "vanished" not in said and "pass --append to add the new ones as rows" in said
    assert encode(tar, store, append=True).exit_code == 0
    assert encode(tar, store).num_encoded_now == 0


@pytest.fixture
def repaired(photos, tmp_path, encode):
    """A tar of 40 images that was cut after the first and is whole again, the store made of it, and the lost row."""
    data = (photos / "animal" / "1.jpg").read_bytes()
    tar, store = write_tar(tmp_path / "s.tar", {f"{number}.jpg": data for number in range(40)}), tmp_path / "store.zarr"
    whole = tar.read_bytes()
    tar.write_bytes(whole[: whole.index(b"1.jpg") + 100])
    assert encode(tar, store).exit_code == 3
    (lost,) = [failure["row"] for failure in LatentStore(store).failures()]
    tar.write_bytes(whole)
    return tar, store, lost


_REPAIRED = "1 of the rows stood for lost parts of tars, and no longer count as failed: the tars have been repaired"


def test_the_row_of_a_tar_that_was_repaired_stays_and_is_no_failure(repaired, encode, tcae, small_checkpoint):
    tar, store, lost = repaired
    keys = LatentStore(store).keys(range(2))
    encoding = ("encode-dataset", tar, store, "--append", "--model", small_checkpoint, "--device", "cpu")
    for command, words in (
        (encoding, "40 rows ok, 0 failed"),
        (("info", store), "41: 40 ok, 0 failed, 0 pending"),
        (("verify", store, "--rows", 0, "--source", tar), "40 rows ok, 0 failed"),
    ):
        exit_code, said, _ = tcae(*command)
        said = " ".join(said.split())
        assert exit_code == 0 and words in said and said.count(_REPAIRED) == 1, said

    after = LatentStore(store)
    assert after.keys(range(2)) == keys and after.status()[lost] == 2 and len(after.ok_rows) == 40
    (failure,) = after.failures()
    assert (failure["row"], failure["stage"]) == (lost, "repaired")
    assert failure["error"] == "was a part of a tar that could not be read, whose images have rows of their own now"
    heard = Heard()
    assert encode(tar, store, heard, retry_failed=True).num_encoded_now == 0
    assert not any("tried again" in sentence for sentence in heard.said)


def test_a_repair_that_was_appended_by_an_earlier_version_is_settled_by_the_next_run(repaired, encode, monkeypatch):
    tar, store, _ = repaired
    with monkeypatch.context() as earlier:
        earlier.setattr(encode_job, "settle_repaired", lambda *_: None)
        assert encode(tar, store, append=True).num_failed == 1
    report = encode(tar, store)
    assert (report.num_failed, report.num_repaired, report.num_encoded_now, report.exit_code) == (0, 1, 0, 0)


def test_a_shard_with_the_row_of_a_repaired_tar_is_encoded_anew_without_a_failure(repaired, encode):
    tar, store, _ = repaired
    encode(tar, store, append=True)
    (store / "latents" / "c.0.0.0.0").unlink()
    report = encode(tar, store)
    assert report.num_encoded_now and (report.num_failed, report.num_repaired, report.exit_code) == (0, 1, 0)


def test_a_tar_that_is_damaged_at_another_place_now_has_one_failure(repaired, encode):
    tar, store, _ = repaired
    whole = tar.read_bytes()
    tar.write_bytes(whole[: whole.index(b"2.jpg") + 100])
    report = encode(tar, store, append=True)
    assert (report.num_ok, report.num_failed, report.num_repaired) == (2, 1, 1)


@pytest.fixture
def cut_beside_another(photos, tmp_path, encode):
    """A folder of two tars, the first of which is cut, the whole bytes of that one, and the store made of the folder.

    The row of the lost part is in the first shard, to which a repair adds no rows.
    """
    data = (photos / "animal" / "1.jpg").read_bytes()
    source, store = tmp_path / "tars", tmp_path / "store.zarr"
    source.mkdir()
    cut = write_tar(source / "a.tar", {f"a{number}.jpg": data for number in range(16)})
    write_tar(source / "b.tar", {f"b{number}.jpg": data for number in range(30)})
    whole = cut.read_bytes()
    cut.write_bytes(whole[: whole.index(b"a14.jpg") + 100])
    encode(source, store, max_failures="100%")
    return source, whole, store


def assert_all_but_the_lost_row_are_ok(store, latents):
    assert verify_store(VerifyRequest(store=str(store), num_rows=0), Silent()).problems == []
    after = LatentStore(store)
    assert after.complete and [(row["row"], row["stage"]) for row in after.failures()] == [(14, "repaired")]
    assert len(after.ok_rows) == 46 and after.latents(range(14)).tobytes() == latents.tobytes()


def test_a_tar_that_is_repaired_after_its_retry_was_killed_is_continued(cut_beside_another, encode, die_after):
    source, whole, made = cut_beside_another
    latents = LatentStore(made).latents(range(14))
    cut, store = (source / "a.tar").read_bytes(), made.with_name("killed.zarr")
    for count in range(0, 100, 2):
        shutil.copytree(made, store)
        (source / "a.tar").write_bytes(cut)
        die_after(count)
        try:
            encode(source, store, retry_failed=True, max_failures="100%")
            break
        except Killed:
            die_after(None)
        (source / "a.tar").write_bytes(whole)
        encode(source, store, append=True)
        assert_all_but_the_lost_row_are_ok(store, latents)
        shutil.rmtree(store)
    assert count > 10


def test_a_shard_that_was_left_open_with_no_row_to_encode_is_committed(cut_beside_another, encode):
    """As earlier versions left it, when a retry was killed and the tar then repaired."""
    source, whole, store = cut_beside_another
    latents = LatentStore(store).latents(range(14))
    (source / "a.tar").write_bytes(whole)
    encode(source, store, append=True)
    handle = StoreHandle(LocalFolder(store))
    (record,) = read_unchecked(handle.folder, [0])
    reopen(handle)
    write_record(handle.folder, handle.spec, record.model_copy(update={"reopened": True}))

    report = encode(source, store)
    assert (report.num_encoded_now, report.complete, report.exit_code) == (0, True, 0)
    assert_all_but_the_lost_row_are_ok(store, latents)
