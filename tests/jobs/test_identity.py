"""A store goes on with what made it, and with nothing else: one sentence says what differs, and the ways out."""

import json
import shutil
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from tcae_cli.checkpoint import read_header, read_tensors, save_checkpoint
from tcae_cli.errors import StoreError
from tcae_cli.jobs.decode import decode_store, read_originals
from tcae_cli.report import DecodeRequest, Silent
from tcae_cli.store.reader import LatentStore


@pytest.fixture(scope="module")
def store(photos, encode, tmp_path_factory) -> Path:
    """24 photographs in a store, to be read."""
    path = tmp_path_factory.mktemp("identity") / "store.zarr"
    encode(photos, path)
    return path


@pytest.fixture(scope="module")
def retrained(small_checkpoint, tmp_path_factory):
    """Makes a copy of the small model with other values in one part of it, "encoder" or "decoder"."""

    def make(part: str) -> Path:
        tensors, _ = read_tensors(small_checkpoint)
        names = [name for name in tensors if name.startswith(f"{part}.")]
        torch.manual_seed(1)
        for name in names:
            tensors[name] = tensors[name] + 0.1 * torch.randn_like(tensors[name])
        header = read_header(str(small_checkpoint))
        path = tmp_path_factory.mktemp(part) / "other.safetensors"
        save_checkpoint(path, tensors, spec=header.spec, statistics=header.statistics, recipe={}, step=1)
        assert names
        return path

    return make


class Heard(Silent):
    """What a job said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


def files_of(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def refused(encode, source: Path, store: Path, **options) -> str:
    """The sentence with which a store that stays as it is was refused."""
    before = files_of(store)
    with pytest.raises(StoreError) as raised:
        encode(source, store, **options)
    assert files_of(store) == before
    return str(raised.value)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"sizes": (96,)}, "--size 64, not 96"),
        ({"sizes": (64, 96)}, "--size 64, not 64 96"),
        ({"flip": True}, "--flip absent, not given"),
        ({"resize": "adm"}, "--resize torch, not adm"),
        ({"precision": "bf16"}, "--precision fp32, not bf16"),
        ({"batch_size": 4}, "--batch-size 16, not 4"),
        ({"dtype": "float32"}, "--dtype float16, not float32"),
        ({"dtype": "int8"}, "--dtype float16, not int8"),
        ({"codec": "none"}, "--codec zstd, not none"),
        ({"codec": "none", "dtype": "float32"}, "--dtype float16, not float32; --codec zstd, not none"),
    ],
)
@pytest.mark.parametrize("append", [False, True])
def test_another_option_is_named_with_both_values(photos, store, encode, options, difference, append):
    said = refused(encode, photos, store, append=append, **options)
    assert said == (
        f"{store} cannot be continued: it was made with {difference}; "
        f"repeat the command it was made with, or encode into another store"
    )


def test_another_encoder_is_named_with_both_hashes(photos, store, encode, retrained, small_checkpoint):
    other = retrained("encoder")
    first, second = (read_header(str(path)).encoder_hash[:12] for path in (small_checkpoint, other))
    said = refused(encode, photos, store, model=str(other))
    assert f"made with encoder {first} ({small_checkpoint}), not {second} ({other}); repeat the command" in said


def test_the_same_encoder_goes_on_under_another_name_and_with_another_decoder(
    photos, store, encode, retrained, small_checkpoint, tmp_path
):
    renamed = shutil.copy(small_checkpoint, tmp_path / "renamed.safetensors")
    for model in (renamed, retrained("decoder")):
        assert encode(photos, store, model=str(model)).num_encoded_now == 0


def test_another_source_is_named_with_counts_and_fingerprints(photos, many_photos, store, encode):
    said = refused(encode, many_photos, store)
    assert said.startswith(f"{store} cannot be continued: it was made from 24 images (fingerprint ")
    assert f"), and {many_photos} has 240 (" in said
    assert "240 new (00-0.jpg, " in said and "24 vanished (animal/0.jpg, " in said
    assert said.endswith(
        "put them back as they were, or pass --append to add the new ones as rows, or encode into another store"
    )
    said = refused(encode, many_photos, store, append=True)
    assert said.startswith(f"{many_photos} holds none of the 24 images {store} was made from; name the same source")


def test_the_same_images_at_another_place_are_the_same_source(photos, store, encode, tmp_path):
    assert encode(shutil.copytree(photos, tmp_path / "moved"), store).num_encoded_now == 0


@pytest.mark.parametrize(("version", "words"), [(2, "of format version 2"), (None, "a Zarr group of something else")])
def test_another_format_is_named(photos, store, encode, tmp_path, version, words):
    other = shutil.copytree(store, tmp_path / "other.zarr")
    root = json.loads((other / "zarr.json").read_text())
    root["attributes"]["format_version"] = version
    (other / "zarr.json").write_text(json.dumps(root))

    sentence = f"{other} is {words}, not a store this tcae reads (version 1); name another path"
    assert refused(encode, photos, other) == sentence
    with pytest.raises(StoreError) as raised:
        LatentStore(other)
    assert str(raised.value) == sentence


def test_a_root_that_is_damaged_is_named(photos, store, encode, tmp_path):
    other = shutil.copytree(store, tmp_path / "other.zarr")
    root = json.loads((other / "zarr.json").read_text())
    root["attributes"]["rows_per_shard"] = "many"
    (other / "zarr.json").write_text(json.dumps(root))
    assert f"{other}/zarr.json is damaged: " in refused(encode, photos, other)
    (other / "zarr.json").write_text("{")
    assert "zarr.json is not the metadata of a Zarr group; name another path" in refused(encode, photos, other)


@pytest.fixture
def grown(photos, store, tmp_path, encode):
    """A store of 24 images, and their source, which has three more by now: of a class before, between and after."""
    source = shutil.copytree(photos, tmp_path / "photos")
    path = shutil.copytree(store, tmp_path / "store.zarr")
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


def test_an_image_that_changed_at_the_same_size_is_found_by_its_content_hash(photos, encode, tmp_path):
    source, path = shutil.copytree(photos, tmp_path / "photos"), tmp_path / "store.zarr"
    encode(source, path)
    image = source / "animal" / "3.jpg"
    data = bytearray(image.read_bytes())
    data[-20] ^= 1
    image.write_bytes(data)

    assert encode(source, path).num_encoded_now == 0  # names and sizes are those it was made from
    encode(source, tmp_path / "fresh.zarr")
    kept, fresh = (LatentStore(each).content_hash() for each in (path, tmp_path / "fresh.zarr"))
    assert (kept != fresh).nonzero()[0].tolist() == [3]
    assert int(fresh[3]) == int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
    assert read_originals(LatentStore(path), [2, 3]).keys() == {2}


def decode(store: Path, out: Path, **options):
    return decode_store(DecodeRequest(store=str(store), out_dir=out, rows="0:2", device="cpu", **options), Silent())


def test_a_decoder_finetuned_behind_the_same_encoder_decodes_in_its_own_way(store, retrained, tmp_path):
    model = str(retrained("decoder"))
    assert decode(store, tmp_path / "first").num_written == 2
    assert decode(store, tmp_path / "finetuned", model=model).num_written == 2
    pictures = [(tmp_path / out / "animal" / "0.jpg.png").read_bytes() for out in ("first", "finetuned")]
    assert pictures[0] != pictures[1]
    LatentStore(store).refuse_other_encoder(read_header(model).encoder_hash, model)


def test_a_decoder_behind_another_encoder_is_refused_unless_forced(store, retrained, small_checkpoint, tmp_path):
    model = str(retrained("encoder"))
    first, other = (read_header(str(path)).encoder_hash for path in (small_checkpoint, model))
    sentence = (
        f"{store} was made with encoder {first[:12]} ({small_checkpoint}), {model} has {other[:12]}; "
        f"pass --model with the first, or --force to decode all the same"
    )
    with pytest.raises(StoreError) as raised:
        decode(store, tmp_path / "out", model=model)
    assert str(raised.value) == sentence and not (tmp_path / "out").exists()
    with pytest.raises(StoreError) as raised:
        LatentStore(store).refuse_other_encoder(other, model)
    assert str(raised.value) == sentence
    assert decode(store, tmp_path / "out", model=model, force=True).num_written == 2
