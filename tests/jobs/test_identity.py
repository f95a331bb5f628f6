"""A store goes on with what made it, and with nothing else: one sentence says what differs, and the ways out."""

import json
import shutil
from hashlib import blake2b
from pathlib import Path

import pytest
import torch

from tcae_cli.autoencoders.checkpoint import ModelDescription, read_tensors, save_checkpoint
from tcae_cli.autoencoders.tcae import read_header
from tcae_cli.errors import StoreError
from tcae_cli.jobs.decode import decode_store, read_originals
from tcae_cli.reports.decode import DecodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.store.reader import LatentStore

from ..store_contents import change_metadata, refused


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
        description = ModelDescription(spec=header.spec, statistics=header.statistics, recipe={}, step=1)
        save_checkpoint(path, tensors, description)
        assert names
        return path

    return make


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


@pytest.mark.parametrize(("version", "words"), [(3, "of format version 3"), (None, "a Zarr group of something else")])
def test_another_format_is_named(photos, store, encode, tmp_path, version, words):
    other = shutil.copytree(store, tmp_path / "other.zarr")
    root = json.loads((other / "zarr.json").read_text())
    root["attributes"]["format_version"] = version
    (other / "zarr.json").write_text(json.dumps(root))

    sentence = f"{other} is {words}, not a store this tcae reads (version 1 or 2); name another path"
    assert refused(encode, photos, other) == sentence
    with pytest.raises(StoreError) as raised:
        LatentStore(other)
    assert str(raised.value) == sentence


def test_a_root_that_is_damaged_is_named(photos, store, encode, tmp_path):
    other = shutil.copytree(store, tmp_path / "other.zarr")
    change_metadata(other / "zarr.json", lambda root: root["attributes"].update(rows_per_shard="many"))
    assert f"{other}/zarr.json is damaged: " in refused(encode, photos, other)
    (other / "zarr.json").write_text((store / "zarr.json").read_text().replace('"dtype": "float16"', '"dtype": "int8"'))
    assert f"{other}/zarr.json is damaged: it does not match its CRC-32C; restore it" in refused(encode, photos, other)
    (other / "zarr.json").write_text("{")
    assert "zarr.json is not the metadata of a Zarr group; name another path" in refused(encode, photos, other)


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
    LatentStore(store).refuse_other_encoder(read_header(model).encoder_hash, model, "")


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
        LatentStore(store).refuse_other_encoder(other, model, "leave it")
    assert str(raised.value) == sentence.partition("; ")[0] + "; leave it"
    assert decode(store, tmp_path / "out", model=model, force=True).num_written == 2


def test_a_store_that_lost_its_list_of_images_takes_no_other_source(photos, many_photos, tmp_path, encode):
    store = tmp_path / "store.zarr"
    encode(photos, store)
    shutil.rmtree(store / ".tcae" / "index")

    for options in ({}, {"append": True}):
        with pytest.raises(StoreError, match=r"its list of images, \S+, is gone, and \S+ is not what it was made from"):
            encode(many_photos, store, **options)
    assert encode(photos, store).num_encoded_now == 0  # the same images make the same list
