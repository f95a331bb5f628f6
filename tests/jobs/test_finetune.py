"""`tcae finetune`: whole models and decoders, at their size and at others, from files, runs and the built-in model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tcae_cli.autoencoders.by_name import load_autoencoder
from tcae_cli.autoencoders.tcae import read_header
from tcae_cli.errors import CheckpointError, StoreError, UsageError
from tcae_cli.jobs.decode import decode_store
from tcae_cli.jobs.train import train
from tcae_cli.reports.decode import DecodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.train import TrainReport, TrainRequest
from tcae_cli.store.reader import LatentStore

from ..small_recipes import FULL, MODEL, recipe

PLAIN = {"pixel_shortcut": False, "downsampling": 32}  # as the small model


@pytest.fixture
def finetune(photos, small_checkpoint, tmp_path):
    def run(recipe, progress=None, out="run", **options) -> TrainReport:
        settings = {"parent": str(small_checkpoint), "device": "cpu", "num_workers": 0} | options
        request = TrainRequest(recipe=recipe, data=str(photos), out=tmp_path / out, **settings)
        return train(request, progress or Silent())

    return run


@pytest.fixture
def parent_run(finetune) -> Path:
    """The folder of a run from scratch."""
    return finetune(recipe(steps=2, model=PLAIN), out="parent", parent=None).run


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


class InterruptAt(Silent):
    def __init__(self, step: int) -> None:
        self.left = step

    def advance(self, count=1, failed=0, note=""):
        self.left -= count
        if not self.left:
            raise KeyboardInterrupt


def test_training_starts_where_the_parent_ended(finetune, small_checkpoint, images):
    standing_still = {"lr": 1e-12, "min_lr": 0.0, "weight_decay": 0.0}
    report = finetune(recipe(steps=2, model=PLAIN, optimizer=standing_still))

    child, parent = load_autoencoder(str(report.run)), load_autoencoder(str(small_checkpoint))
    assert torch.allclose(child(images), parent(images), atol=1e-4)


def test_a_whole_model_trains_and_remembers_its_parent(finetune, small_checkpoint, images):
    report = finetune(recipe(steps=2, **FULL | {"model": PLAIN}))

    header, parent = read_header(str(report.run)), read_header(str(small_checkpoint))
    assert (header.parent.name, header.parent.encoder_hash) == ("small", parent.encoder_hash)
    assert header.parent.decoder_hash == parent.decoder_hash
    assert header.encoder_hash != parent.encoder_hash and header.decoder_hash != parent.decoder_hash
    for ours, theirs in zip(tensors_of(report.run), tensors_of(small_checkpoint), strict=True):
        assert not torch.equal(ours, theirs)


def test_a_run_from_scratch_has_no_parent(parent_run):
    assert read_header(str(parent_run)).parent is None


def test_a_frozen_encoder_leaves_latents_and_hash_as_they_were_to_the_bit(finetune, parent_run, images):
    lossy = recipe(steps=3, model=PLAIN, train={"weights_dtype": "float16"})
    report = finetune(lossy, parent=str(parent_run), freeze_encoder=True)

    child, parent = load_autoencoder(str(report.run)), load_autoencoder(str(parent_run))
    header, of_parent = read_header(str(report.run)), read_header(str(parent_run))
    assert torch.equal(child.encode(images), parent.encode(images))
    assert header.encoder_hash == of_parent.encoder_hash == header.parent.encoder_hash
    assert header.decoder_hash != of_parent.decoder_hash
    assert header.parent.name == "parent"
    latents = parent.encode(images)
    assert (child.decode(latents) - parent.decode(latents)).abs().max() > 1e-3


def test_the_built_in_encoder_stays_to_the_bit_in_float16_and_at_another_size(finetune, images):
    spec = read_header("tcae-tiny").spec
    smaller = recipe(steps=1, model={**spec.model_dump(mode="json"), "image_size": 64}, train={"batch_size": 1})
    report = finetune(smaller, parent="tcae-tiny", freeze_encoder=True)

    child, parent = load_autoencoder(str(report.run)), load_autoencoder("tcae-tiny")
    assert read_header(str(report.run)).encoder_hash == read_header("tcae-tiny").encoder_hash
    assert read_header(str(report.run)).spec.image_size == 64
    assert torch.equal(child.encode(images), parent.encode(images))
    with safe_open(report.checkpoint, "pt") as file:
        dtypes = {name: file.get_slice(name).get_dtype() for name in set(file.keys())}
    assert {dtype for name, dtype in dtypes.items() if name.startswith("encoder.")} == {"F16"}
    assert {dtype for name, dtype in dtypes.items() if name.startswith("decoder.")} == {"F32"}


def test_a_store_of_the_parents_is_decoded_by_the_child_of_a_frozen_encoder_alone(
    finetune, encode, photos, parent_run, tmp_path
):
    store = tmp_path / "store.zarr"
    encode(photos, store, model=str(parent_run))
    before = LatentStore(store).latents([0])
    frozen = finetune(recipe(steps=2, model=PLAIN), out="frozen", parent=str(parent_run), freeze_encoder=True)
    moved = finetune(recipe(steps=2, model=PLAIN), out="moved", parent=str(parent_run))

    decoded = decode_store(
        DecodeRequest(store=str(store), out_dir=tmp_path / "out", model=str(frozen.run), device="cpu"), Silent()
    )
    assert decoded.num_written == 24
    with pytest.raises(StoreError, match="encoder"):
        decode_store(
            DecodeRequest(store=str(store), out_dir=tmp_path / "no", model=str(moved.run), device="cpu"), Silent()
        )
    again = encode(photos, store, model=str(frozen.run))  # the same encoder: nothing to do
    assert again.num_encoded_now == 0
    assert np.array_equal(LatentStore(store).latents([0]), before)


def test_a_new_size_is_learnt_at(finetune, parent_run):
    larger = recipe(steps=2, model={**PLAIN, "image_size": 96}, data={"resize_min": 96, "resize_max": 112})
    report = finetune(larger, parent=str(parent_run))

    child = load_autoencoder(str(report.run))
    assert child.encoder.positions.weight.shape[1] == child.decoder.expansion[1].weight.shape[1] == 12
    assert read_header(str(report.run)).spec.image_size == 96
    assert child(torch.zeros(1, 3, 96, 96)).shape == (1, 3, 96, 96)


def test_a_finetune_of_the_decoder_resumes_to_the_bit(finetune):
    short = recipe(steps=4, model=PLAIN, train={"checkpoint_every": 2})
    whole = finetune(short, out="whole", freeze_encoder=True).run
    with pytest.raises(KeyboardInterrupt):
        finetune(short, InterruptAt(3), freeze_encoder=True)
    resumed = finetune(short, freeze_encoder=True, resume=True).run

    assert read_header(str(resumed)).parent == read_header(str(whole)).parent
    assert read_header(str(resumed)).step == 4
    for file in ("model.safetensors", "state.safetensors"):
        for ours, theirs in zip(tensors_of(resumed / file), tensors_of(whole / file), strict=True):
            assert torch.equal(ours, theirs), file


def test_a_finetune_goes_on_from_the_parent_it_was_begun_from(finetune, parent_run):
    finetune(recipe(steps=1, model=PLAIN))
    with pytest.raises(CheckpointError, match=r"begun otherwise: parent.* was .*, is "):
        finetune(recipe(steps=1, model=PLAIN), parent=str(parent_run), resume=True)
    with pytest.raises(CheckpointError, match=r"begun otherwise: parent was .*, is None"):
        finetune(recipe(steps=1, model=PLAIN), parent=None, resume=True)
    with pytest.raises(CheckpointError, match="begun otherwise: freeze_encoder was False, is True"):
        finetune(recipe(steps=1, model=PLAIN), freeze_encoder=True, resume=True)


def test_a_parent_of_another_shape_is_refused(finetune):
    with pytest.raises(CheckpointError, match="do not fit the recipe's model; omit its keys of `model`"):
        finetune(recipe(model={**PLAIN, "width": 64}))


def test_a_frozen_encoder_leaves_self_distillation_nothing_to_do(finetune):
    with pytest.raises(UsageError, match=r"nothing to train; add --set loss\.self_distillation=none"):
        finetune(recipe(**FULL), freeze_encoder=True)


@pytest.fixture
def command_line(photos, tmp_path, tcae):
    """Run `tcae finetune` in this process; return its exit code and stderr."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "data: {resize_min: 64, resize_max: 80}\nloss: {perceptual: none, self_distillation: {global_size: 64}}\n"
        "train: {steps: 1, batch_size: 2, precision: fp32}\n"
    )

    def run(*options) -> tuple[int, str]:
        arguments = ["finetune", path, "--data", photos, "--out", tmp_path / "run", "--workers", 0, "--device", "cpu"]
        code, _, stderr = tcae(*arguments, *options)
        return code, stderr

    return run


def test_the_command_line_trains_the_parents_decoder(command_line, small_checkpoint, photos, tmp_path):
    options = ("--from", small_checkpoint, "--freeze", "encoder", "--val", photos / "thing")
    code, stderr = command_line(*options, "--set", "loss.self_distillation=none")

    assert code == 0, stderr
    header = read_header(str(tmp_path / "run"))
    assert header.spec.width == MODEL["width"] and header.parent.name == "small"
    assert header.encoder_hash == read_header(str(small_checkpoint)).encoder_hash


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--freeze", "encoder"], "add --set loss.self_distillation=none"),
        (["--set", "model.width=64"], "model.width is 64, but the model to finetune has 32; omit model.width"),
        (["--from", "nowhere"], "no model at nowhere; give a file, a run folder, hf://org/name or"),
        (["--gpus", "2"], "--gpus and --device cpu exclude each other"),
        (["--weights", "squeezenet1_1"], "--weights squeezenet1_1 is not of the form NAME=PATH"),
    ],
)
def test_the_command_line_says_what_cannot_work(command_line, small_checkpoint, tmp_path, options, sentence):
    code, stderr = command_line("--from", small_checkpoint, *options)

    assert code == 2
    assert sentence in stderr and len(stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def tensors_of(path: Path) -> list[torch.Tensor]:
    """Of a file, or of the model in a run folder, by name."""
    with safe_open(path / "model.safetensors" if path.is_dir() else path, "pt") as file:
        return [file.get_tensor(name) for name in sorted(file.keys())]
