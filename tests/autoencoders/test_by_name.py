"""A model by any name: diffusers' autoencoders beside our own."""

import json
import shutil
import sys
from pathlib import Path

import diffusers
import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from tcae_cli.autoencoders.by_name import load_autoencoder, read_card
from tcae_cli.autoencoders.tcae import read_header
from tcae_cli.errors import CheckpointError, NotFoundError

from ..small_diffusers import change, save_dc, save_kl

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with two models, and the second again as part of a pipeline."""
    folder = tmp_path_factory.mktemp("saved")
    save_dc(folder / "dc")
    save_kl(folder / "kl")
    shutil.copytree(folder / "kl", folder / "pipeline" / "vae")
    (folder / "pipeline" / "model_index.json").write_text("{}")
    return folder


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """A copy of the first to be damaged."""
    return shutil.copytree(saved / "kl", tmp_path / "copy")


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def in_cache(monkeypatch, cache: Path, saved: Path, repository: str) -> None:
    """Put a folder where the Hub's client keeps what it has fetched, and cut it off from the Hub."""
    home = cache / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    shutil.copytree(saved, home / "snapshots" / ("0" * 40))
    cut_off(monkeypatch, cache)


def cut_off(monkeypatch, cache: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_our_own_are_known_by_the_same_two_functions(small_checkpoint):
    card, header = read_card(str(small_checkpoint)), read_header(str(small_checkpoint))
    assert (card.encoder_hash, card.image_size, card.latent_channels) == (header.encoder_hash, 64, 8)
    shape = (1, card.latent_channels, 64 // card.downsampling, 64 // card.downsampling)
    assert load_autoencoder(str(small_checkpoint)).encode(torch.zeros(1, 3, 64, 64)).shape == shape


def test_a_card_says_what_a_model_is(saved):
    kl, dc = (read_card(f"diffusers:{saved / each}") for each in ("kl", "dc"))

    assert (kl.image_size, kl.latent_channels, kl.downsampling) == (64, 4, 4)
    assert (dc.image_size, dc.latent_channels, dc.downsampling) == (256, 8, 2)  # it does not say what size
    assert kl.name == f"diffusers:{saved / 'kl'}" and kl.recipe == {}
    assert (kl.spec["library"], kl.spec["class"]) == ("diffusers", "AutoencoderKL")
    assert (kl.spec["scaling_factor"], kl.spec["shift_factor"]) == (0.3611, 0.1159)
    assert dc.spec["scaling_factor"] == 0.41407 and dc.spec["class"] == "AutoencoderDC"
    assert json.loads(json.dumps(kl.spec)) == kl.spec
    assert len(kl.encoder_hash) == 64 and kl.encoder_hash != dc.encoder_hash


def test_scale_and_image_size_that_a_config_leaves_out(copy):
    config = json.loads((copy / "config.json").read_text())
    del config["scaling_factor"], config["sample_size"]
    (copy / "config.json").write_text(json.dumps(config))
    card = read_card(f"diffusers:{copy}")
    assert card.spec["scaling_factor"] == 0.18215  # the class's
    assert card.image_size == 256


@pytest.mark.parametrize("name", ["kl", "dc"])
def test_latents_and_images_are_those_of_the_model_itself(saved, name):
    model_class = {"kl": diffusers.AutoencoderKL, "dc": diffusers.AutoencoderDC}[name]
    theirs = model_class.from_pretrained(saved / name, low_cpu_mem_usage=False)
    ours = load_autoencoder(f"diffusers:{saved / name}")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1

    with torch.no_grad():
        encoded = theirs.encode(images)
        expected = encoded.latent_dist.mean if name == "kl" else encoded.latent
        assert torch.equal(ours.encode(images), expected)
        assert torch.equal(ours.decode(expected), theirs.decode(expected).sample)
    assert expected.std() > 0


def test_a_model_is_frozen_float32_and_in_eval_mode_whatever_was_saved(copy):
    tensors = load_file(copy / WEIGHTS)
    save_file({key: value.half() for key, value in tensors.items()}, copy / WEIGHTS)
    model = load_autoencoder(f"diffusers:{copy}")

    assert not model.training and not model.model.training
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    assert not any(each.requires_grad for each in model.parameters())
    assert read_card(f"diffusers:{copy}").latent_channels == 4


@pytest.mark.parametrize(
    ("parameter", "is_encoder"),
    [
        ("encoder.conv_in.weight", True),
        ("encoder.mid_block.resnets.0.norm1.bias", True),
        ("quant_conv.bias", True),
        ("decoder.conv_out.weight", False),
        ("post_quant_conv.weight", False),
    ],
)
def test_the_hash_is_of_what_encode_reads(saved, tmp_path, parameter, is_encoder):
    model = save_kl(tmp_path / "changed")
    change(model, parameter)
    model.save_pretrained(tmp_path / "changed")
    before, after = (read_card(f"diffusers:{path}") for path in (saved / "kl", tmp_path / "changed"))
    assert (before.encoder_hash != after.encoder_hash) == is_encoder


def test_the_hash_covers_the_config_but_not_how_it_is_written(saved, copy):
    before = read_card(f"diffusers:{saved / 'kl'}").encoder_hash
    config = json.loads((copy / "config.json").read_text())
    assert config.pop("act_fn") == "silu"  # the default
    (copy / "config.json").write_text(json.dumps(config | {"sample_size": 512, "_diffusers_version": "0.4.0"}))
    assert read_card(f"diffusers:{copy}").encoder_hash == before

    edit_config(copy, act_fn="relu")
    assert read_card(f"diffusers:{copy}").encoder_hash != before


def test_a_models_hash_is_the_same_for_ever(copy):
    """Later versions of diffusers may add fields; a hash that changed with them would end every store."""
    tensors = load_file(copy / WEIGHTS)
    save_file({key: torch.ones_like(value) for key, value in tensors.items()}, copy / WEIGHTS)
    assert (
        read_card(f"diffusers:{copy}").encoder_hash
        == "7ce9e1a8450c461c2f85d93aeb8cae8d1a52b43f5d482193de3b1b0200242a2d"
    )


def test_names_of_attention_in_older_files_are_known(saved, copy):
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for key, value in load_file(copy / WEIGHTS).items():
        for now, then in new.items():
            key = key.replace(f"attentions.0.{now}.", f"attentions.0.{then}.")
        tensors[key] = value
    assert "encoder.mid_block.attentions.0.query.weight" in tensors
    save_file(tensors, copy / WEIGHTS)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    older, newer = (load_autoencoder(f"diffusers:{each}").encode(images) for each in (copy, saved / "kl"))
    assert torch.equal(older, newer)


def test_a_pipelines_autoencoder_is_found_in_its_folder(saved):
    card = read_card(f"diffusers:{saved / 'pipeline'}")
    assert card.encoder_hash == read_card(f"diffusers:{saved / 'kl'}").encoder_hash
    assert load_autoencoder(card.name).encode(torch.zeros(1, 3, 64, 64)).shape == (1, 4, 16, 16)


@pytest.mark.parametrize("folder", ["kl", "pipeline"])
def test_what_the_hub_has_sent_before_works_without_it(saved, tmp_path, monkeypatch, folder):
    in_cache(monkeypatch, tmp_path, saved / folder, "someone/something")
    card = read_card("diffusers:someone/something")
    assert card.encoder_hash == read_card(f"diffusers:{saved / 'kl'}").encoder_hash
    assert load_autoencoder(card.name).encode(torch.zeros(1, 3, 64, 64)).shape == (1, 4, 16, 16)


def test_a_revision_is_asked_for(saved, monkeypatch):
    asked = []

    def fetch(repository, file, revision):
        asked.append((repository, file, revision))
        if not (saved / "kl" / file).is_file():
            raise LocalEntryNotFoundError(file)
        return saved / "kl" / file

    monkeypatch.setattr("tcae_cli.autoencoders.model_files.fetch_model_file", fetch)
    read_card("diffusers:someone/something@v2")
    assert asked == [
        ("someone/something", "vae/config.json", "v2"),
        ("someone/something", "config.json", "v2"),
        ("someone/something", WEIGHTS, "v2"),
    ]


@pytest.mark.parametrize("name", ["nobody/nothing", "nobody/nothing@v1", "./no/such/folder"])
def test_a_name_that_leads_nowhere_says_so(name, tmp_path, monkeypatch):
    cut_off(monkeypatch, tmp_path)
    with pytest.raises(NotFoundError) as raised:
        read_card(f"diffusers:{name}")
    assert str(raised.value).startswith(
        f"diffusers:{name} is not a local folder and could not be fetched from the Hub ("
    )
    assert str(raised.value).endswith("; check the name and the network")
    with pytest.raises(NotFoundError, match="check the name and the network"):
        load_autoencoder(f"diffusers:{name}")


def test_weights_that_are_not_in_the_cache_are_not_said_to_be_absent(copy, tmp_path, monkeypatch):
    (copy / WEIGHTS).unlink()
    in_cache(monkeypatch, tmp_path / "cache", copy, "someone/something")
    with pytest.raises(NotFoundError, match=r"could not be fetched from the Hub .*; check the name and the network"):
        read_card("diffusers:someone/something")


@pytest.mark.parametrize("use", [read_card, load_autoencoder])
def test_weights_that_would_be_unpickled_are_refused(copy, use):
    (copy / WEIGHTS).rename(copy / "diffusion_pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match=rf"copy holds no {WEIGHTS}; other weight files, such as .bin, are not read"
    ):
        use(f"diffusers:{copy}")


def test_a_repository_with_bin_weights_alone_is_refused(copy, monkeypatch):
    def fetch(repository, file, revision):
        if file != "config.json":
            raise huggingface_hub.errors.EntryNotFoundError(file)
        return copy / file

    monkeypatch.setattr("tcae_cli.autoencoders.model_files.fetch_model_file", fetch)
    with pytest.raises(CheckpointError, match=f"someone/something holds no {WEIGHTS}; .* unpickling"):
        read_card("diffusers:someone/something")


def test_without_diffusers_the_way_to_it_is_named(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for use in (read_card, load_autoencoder):
        with pytest.raises(
            NotFoundError, match=r"kl needs diffusers, which is not installed; pip install 'tcae\[diffusers\]'"
        ):
            use(f"diffusers:{saved / 'kl'}")


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(
        NotFoundError, match=r"holds neither config.json nor vae/config.json; name a model that diffusers has saved"
    ):
        read_card(f"diffusers:{tmp_path}")


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_config_that_is_not_diffusers_is_refused(copy, text):
    (copy / "config.json").write_text(text)
    with pytest.raises(
        CheckpointError, match=r"config.json is not a config.json of diffusers: it names no _class_name"
    ):
        read_card(f"diffusers:{copy}")


@pytest.mark.parametrize("class_name", ["AutoencoderOfTomorrow", "DDIMScheduler", "StableDiffusionPipeline", "utils"])
def test_a_class_that_is_not_a_model_of_diffusers_is_refused(copy, class_name):
    edit_config(copy, _class_name=class_name)
    with pytest.raises(
        CheckpointError, match=f"is of class {class_name}, which is not a model of diffusers .*; upgrade diffusers"
    ):
        read_card(f"diffusers:{copy}")


@pytest.mark.parametrize(
    ("class_name", "config"),
    [
        ("AutoencoderKLAllegro", {"block_out_channels": [32] * 4, "layers_per_block": 1}),  # tiles of video alone
        ("AutoencoderKLTemporalDecoder", {"block_out_channels": [32], "layers_per_block": 1}),  # decodes video
        ("UNet2DModel", {"block_out_channels": [32, 32, 32, 32]}),  # no encode
        ("AutoencoderKL", {"in_channels": 1, "block_out_channels": [32]}),  # grey images
    ],
)
@pytest.mark.parametrize("use", [read_card, load_autoencoder])
def test_a_model_that_is_not_for_images_is_refused(tmp_path, class_name, config, use):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": class_name} | config))
    with pytest.raises(
        CheckpointError, match=f"is of class {class_name}, which does not encode and decode an image by itself"
    ):
        use(f"diffusers:{tmp_path}")


def test_a_config_that_makes_no_model_is_refused(copy):
    edit_config(copy, down_block_types=["NoSuchBlock"] * 3)
    with pytest.raises(
        CheckpointError, match=r"config.json does not describe a model of class AutoencoderKL \(NoSuchBlock"
    ):
        read_card(f"diffusers:{copy}")


def test_damaged_weights_are_refused(copy):
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} is not a safetensors file .*; fetch it again"):
        read_card(f"diffusers:{copy}")
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} does not fit its config.json .*; fetch it again"):
        load_autoencoder(f"diffusers:{copy}")


def test_weights_of_another_shape_are_refused(copy):
    edit_config(copy, latent_channels=8)
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} does not fit its config.json .*; fetch it again"):
        load_autoencoder(f"diffusers:{copy}")


def test_weights_that_are_missing_are_not_made_up(copy):
    tensors = load_file(copy / WEIGHTS)
    del tensors["encoder.conv_in.bias"], tensors["decoder.conv_in.bias"]
    save_file(tensors, copy / WEIGHTS)
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} lacks 2 tensors of the model, decoder.conv_in.bias first"):
        load_autoencoder(f"diffusers:{copy}")
