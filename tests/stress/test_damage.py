"""Damage is one sentence: no file that tcae reads brings a traceback, whatever its bytes.

What tcae wrote itself is read right, or refused with an error that names the place. `make stress` damages much more.
"""

import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tcae_cli.autoencoders.by_name import load_autoencoder, read_card
from tcae_cli.autoencoders.checkpoint import write_tensors
from tcae_cli.errors import CheckpointError, DiskError, ImageError, RecipeError
from tcae_cli.images.image_file import decode_image
from tcae_cli.recipe.load import load_recipe
from tcae_cli.sources.scan import open_source
from tcae_cli.store.dataset import LatentDataset
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.stream import LatentStream
from tcae_cli.tracking.curves import draw_curves
from tcae_cli.training.state import saved_step

from ..forms import FORMS, Sample, write_form
from .damage import Files, Fuzz, LocalFiles, Objects, Reader, command

IN_FULL = bool(os.environ.get("STRESS"))
SEED = int(os.environ.get("SEED", random.SystemRandom().randrange(10**6) if IN_FULL else 1))

STORES: dict[str, dict[str, Any]] = {
    "mirrored": {"flip": True},
    "int8": {"dtype": "int8"},
    "two sizes": {"sizes": (64, 96), "codec": "none"},
}
OPTIONS = {
    "mirrored": ["--flip"],
    "int8": ["--dtype", "int8"],
    "two sizes": ["--size", "64", "--size", "96", "--codec", "none"],
}
FIXTURES = Path(__file__).parents[1] / "fixtures"
RECIPES = Path(__file__).parents[2] / "recipes"
FIELDS = ("latents", "label", "class_name", "caption", "key")
LOCAL_FORMS = [form for form in FORMS if form != "hub"]


@pytest.fixture(scope="module", params=STORES)
def made(request, captioned, encode, tmp_path_factory) -> tuple[str, Path]:
    """A store of two shards, of one kind after another, from some photographs with captions; one is broken."""
    path = tmp_path_factory.mktemp("damaged") / "store.zarr"
    encode(captioned, path, max_failures="10%", **STORES[request.param])
    return request.param, path


def read_store(path: Path | str) -> list[Any]:
    store = LatentStore(path)
    rows = range(len(store))
    texts = [store.keys(rows), store.captions(rows), store.failures(), store.spec.model_dump(mode="json")]
    arrays = [store.status(), store.labels(), store.content_hash(), store.original_sizes()]
    views = [LatentStore(path, view).latents(rows) for view in store.spec.views]
    return [*texts, *arrays, *views, store.normalise(store.latents(rows)), store.position_normalisation()]


def read_dataset(path: Path | str) -> dict[str, Any]:
    dataset = LatentDataset(path, fields=FIELDS)
    return dataset[list(range(len(dataset)))]


def read_stream(path: Path | str) -> list[Any]:
    return list(LatentStream(path, batch_size=4, seed=0))


def assert_nothing_wrong(
    files: Files | Path, readers: Mapping[str, Reader], short: int, full: int, is_exact: bool = True
) -> None:
    """Damage files so many times, in the short form or in full, each time before all readers."""
    files = LocalFiles(files) if isinstance(files, Path) else files
    fuzz = Fuzz(files, readers, random.Random(SEED), is_exact)
    fuzz.run(full if IN_FULL else short)
    assert not fuzz.wrong, "\n".join([f"SEED={SEED}", *fuzz.wrong])


READERS: dict[str, Reader] = {"LatentStore": read_store, "LatentDataset": read_dataset, "LatentStream": read_stream}


def info(store: Path | str) -> None:
    command("info", store)


def verify(store: Path | str) -> None:
    command("verify", store, "--rows", 0)


def test_a_damaged_store_is_read_right_or_refused_with_its_name(made):
    assert_nothing_wrong(made[1], READERS, short=40, full=1000)


def test_a_damaged_store_in_a_bucket_is_read_right_or_refused_with_its_name(captioned, bucket, encode):
    store = f"{bucket}/store.zarr"
    encode(captioned, store, max_failures="10%")
    readers = {"LatentStore": read_store, "LatentStream": read_stream, "verify": verify}
    assert_nothing_wrong(Objects(store), readers, short=2, full=40)  # each takes seconds


def test_commands_on_a_damaged_store_do_their_work_or_say_a_sentence(made, captioned, small_checkpoint, tmp_path):
    kind, store = made
    encoding = ["--model", small_checkpoint, "--device", "cpu", "--workers", 0, "--max-failures", "50%", *OPTIONS[kind]]

    def on_a_copy(source: Path, *options: str):
        def encode(path: Path) -> None:
            copy = tmp_path / "copy" / path.name
            shutil.rmtree(copy.parent, ignore_errors=True)
            shutil.copytree(path, copy)
            command("encode-dataset", source, copy, *encoding, *options)

        return encode

    def written_by(*words: Any):
        def write(path: Path) -> dict[str, bytes]:
            out = tmp_path / "out"
            shutil.rmtree(out, ignore_errors=True)
            command(words[0], path, out, *words[1:])
            made = [each for each in sorted(out.rglob("*")) if each.is_file() and each.name != "tcae_export.json"]
            return {each.name: each.read_bytes() for each in made}

        return write

    larger = shutil.copytree(captioned, tmp_path / "larger")
    shutil.copy(larger / "animal" / "0.jpg", larger / "animal" / "z.jpg")
    readers = {
        "encode-dataset": on_a_copy(captioned),
        "--append": on_a_copy(larger, "--append"),
        "--retry-failed": on_a_copy(captioned, "--retry-failed"),
        "decode": written_by("decode", "--model", small_checkpoint, "--device", "cpu", "--rows", "0:3"),
        "export npy": written_by("export", "--format", "npy"),
        "export webdataset": written_by("export", "--format", "webdataset"),
        "info": info,
        "verify": verify,
    }
    if IN_FULL:
        figure = ("--metric", "effective-rank", "--workers", 0)
        readers["eval"] = lambda path: command("eval", "--store", path, *figure) and None
        comparing = ("--source", captioned, "--rows", 2, "--picture", tmp_path / "picture.png")
        readers["verify --source"] = lambda path: command("verify", path, *comparing) and None
    assert_nothing_wrong(store, readers, short=3, full=40)


def test_a_damaged_store_of_version_1_brings_no_traceback(tmp_path):
    path = shutil.copytree(FIXTURES / "stores" / "plain", tmp_path / "plain.zarr")

    def read(path: Path) -> None:
        store = LatentStore(path)
        rows = range(len(store))
        store.keys(rows), store.captions(rows), store.failures(), store.latents(rows), store.content_hash()

    readers = READERS | {"LatentStore": read, "info": info}
    assert_nothing_wrong(path, readers, short=60, full=700, is_exact=False)


def test_a_damaged_checkpoint_is_loaded_right_or_refused_with_its_name(small_checkpoint, tmp_path):
    path = Path(shutil.copy(small_checkpoint, tmp_path / "small.safetensors"))

    def load(path: Path) -> Any:
        return load_autoencoder(str(path), "cpu").state_dict()

    readers = {"card": lambda path: vars(read_card(str(path))), "model": load}
    assert_nothing_wrong(path, readers, short=40, full=1200)


def test_a_damaged_run_brings_no_traceback(tmp_path):
    path = shutil.copytree(FIXTURES / "run", tmp_path / "run")
    readers = {
        "card": lambda path: vars(read_card(str(path))),
        "step": lambda path: saved_step(path, {}),
    }
    assert_nothing_wrong(path, readers, short=30, full=900, is_exact=False)


def test_damaged_curves_of_a_run_bring_no_traceback(tmp_path):
    path = shutil.copytree(FIXTURES / "run", tmp_path / "run")
    assert_nothing_wrong(path, {"curves": draw_curves}, short=2, full=60, is_exact=False)


def test_damage_of_a_recipe_brings_no_traceback(tmp_path):
    path = Path(shutil.copy(RECIPES / "imagenet256.yaml", tmp_path / "imagenet256.yaml"))
    readers = {"recipe": lambda path: load_recipe(path) and None}
    assert_nothing_wrong(path, readers, short=60, full=1800, is_exact=False)


@pytest.mark.parametrize("form", LOCAL_FORMS)
def test_damage_of_a_source_costs_rows_or_is_a_sentence(photos, form, tmp_path):
    images = [photos / "animal" / f"{number}.jpg" for number in range(4)]
    samples = [Sample("cat", image.name, image.read_bytes(), f"caption {image.stem}") for image in images]
    folder = tmp_path / "source"
    uri = write_form(form, folder, [samples[:2], samples[2:]])

    def read(_: Path) -> None:
        source = open_source(uri, tmp_path / "index")
        for row, data in zip(range(len(source)), source.read_many(range(len(source))), strict=True):
            source.key(row), source.label(row), source.caption(row)
            if isinstance(data, bytes):
                try:
                    decode_image(data)
                except ImageError as error:
                    assert str(error)

    assert_nothing_wrong(folder, {"source": read}, short=10, full=300, is_exact=False)


def test_verify_names_each_damage_and_not_only_the_first(made, tmp_path):
    path = shutil.copytree(made[1], tmp_path / "store.zarr")
    (path / "keys" / "c.0").write_bytes(b"x" * 40)
    (path / "labels" / "zarr.json").write_bytes(b"{")
    (path / "latents" / "c.1.0.0.0").unlink()
    (path / "statistics" / "latents" / "channel_mean" / "zarr.json").write_bytes(b"")
    (path / "failures" / "row" / "zarr.json").write_bytes(b"null")
    (next((path / ".tcae" / "index").iterdir()) / "source.json").write_bytes(b"{")
    with pytest.raises(Exception) as raised:
        command("verify", path, "--rows", 0)
    for name in ("keys/c.0", "labels/zarr.json", "latents/c.1.0.0.0", "channel_mean", "failures", "source.json"):
        assert name in str(raised.value), str(raised.value)


def test_frozen_values_compare_by_their_bits():
    from .damage import _frozen

    assert _frozen([np.float32([np.nan])]) == _frozen([np.float32([np.nan])])
    assert _frozen({"a": torch.zeros(2)}) != _frozen({"a": torch.zeros(2, dtype=torch.int32)})


def test_the_sentences_on_damage(small_checkpoint, tmp_path):
    run = shutil.copytree(FIXTURES / "run", tmp_path / "run")
    model = Path(shutil.copy(small_checkpoint, tmp_path / "small.safetensors"))
    data = model.read_bytes()
    model.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"small\.safetensors is damaged: its tensors do not match their CRC-32C"):
        load_autoencoder(str(model), "cpu")
    model.write_bytes(data.replace(b"num_images", b"num_imagex"))
    with pytest.raises(CheckpointError, match=r"small\.safetensors is damaged: its header does not match its CRC-32C"):
        read_card(str(model))
    write_tensors(run / "state.safetensors", {}, '{"step": "three"}')
    with pytest.raises(CheckpointError, match=r"state\.safetensors is not the state of a run, or it is damaged; rest"):
        saved_step(run, {})
    (run / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": nine}\n')
    with pytest.raises(DiskError, match=r"metrics\.jsonl, line 2 is damaged; remove it and repeat"):
        draw_curves(run)
    (run / "recipe.yaml").write_bytes(b"train: \xff")
    with pytest.raises(RecipeError, match=r"recipe\.yaml is not a recipe \(it is not UTF-8\); see the recipes folder"):
        load_recipe(run / "recipe.yaml")
