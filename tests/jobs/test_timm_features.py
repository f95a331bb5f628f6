"""Stores of patch features: those of encoders of timm, which have no decoder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from tcae_cli import LatentDataset, LatentStore
from tcae_cli.autoencoders.by_name import load_autoencoder, read_card
from tcae_cli.errors import CheckpointError, NotFoundError, StoreError, UsageError
from tcae_cli.jobs.decode import decode_store, read_originals
from tcae_cli.jobs.evaluate import evaluate
from tcae_cli.jobs.export import export_store
from tcae_cli.jobs.info import describe_store
from tcae_cli.jobs.plan_encode import plan_encoding
from tcae_cli.jobs.verify import verify_store
from tcae_cli.reports.decode import DecodeRequest
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.encode_plan import EncodePlanRequest
from tcae_cli.reports.evaluation import EvalRequest
from tcae_cli.reports.export import ExportRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.store import InfoRequest, VerifyRequest

from ..store_contents import attributes_of

ARCHITECTURE = "vit_small_patch14_reg4_dinov2"
SMALL = {"img_size": 56, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
NO_DECODER = "is an encoder without a decoder, so its latents become no images; name a model that has one"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A small DINOv2 with registers, as timm saves it, with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("timm")
    model = timm.create_model(ARCHITECTURE, **SMALL)
    with torch.no_grad():
        for parameter in model.parameters():  # timm begins with small ones
            parameter.add_(torch.randn_like(parameter) * 0.1)
    save_for_hf(model, folder, model_args=SMALL, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def store(saved, photos, encode, tmp_path_factory) -> Path:
    """A store of the features of 24 photographs at 28 px, half the size that the model was saved for."""
    path = tmp_path_factory.mktemp("features") / "store.zarr"
    options = {"model": f"timm:{saved}", "sizes": (28,), "dtype": "float32"}
    assert encode(photos, path, num_parts=2, **options).num_encoded_now == 16
    assert encode(photos, path, **options).num_encoded_now == 8
    return path


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """A copy of the model to be damaged."""
    return shutil.copytree(saved, tmp_path / "copy")


@torch.no_grad()
def test_a_store_holds_the_patch_tokens_that_timm_gives(saved, store):
    model = timm.create_model(ARCHITECTURE, **SMALL, dynamic_img_size=True).eval()
    model.load_state_dict(load_file(saved / "model.safetensors"))
    found = LatentStore(store)
    originals = read_originals(found, list(range(24)))
    images = torch.from_numpy(np.stack([originals[row] for row in range(24)])).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))

    tokens = model.forward_features((images - mean) / std)[:, 5:]  # after those of the class and four registers
    expected = tokens.transpose(1, 2).reshape(24, 32, 2, 2)
    np.testing.assert_allclose(found.latents(range(24)), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


def test_features_are_described_read_and_exported(store, saved, tmp_path):
    report = describe_store(InfoRequest(store=str(store)), Silent())
    assert report.encoder["name"] == f"timm:{saved}" and report.encoder["spec"]["class"] == ARCHITECTURE
    assert report.generators_take is None
    assert LatentDataset(store)[0]["latents"].shape == (32, 2, 2)
    with pytest.raises(StoreError, match=r"does not record what the generators of timm:.* take"):
        LatentDataset(store, normalise="model")

    export_store(ExportRequest(store=str(store), target=tmp_path / "out", format="npy"), Silent())
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "latents.npy"), LatentStore(store).latents(range(24)))


def test_buckets_are_of_whole_patches(saved, photos, encode, tmp_path):
    encode(photos, tmp_path / "store.zarr", model=f"timm:{saved}", buckets=True, bucket_step=14)  # 96 x 72 px
    assert LatentStore(tmp_path / "store.zarr" / "buckets" / "42x70").sample_shape == (32, 3, 5)
    encode(photos, tmp_path / "coarse.zarr", model=f"timm:{saved}", buckets=True, sizes=(140,))
    assert attributes_of(tmp_path / "coarse.zarr")["buckets"]["step"] == 70  # the multiple of 14 next above 64


def test_the_card_says_what_the_encoder_is(saved):
    card = read_card(f"timm:{saved}")
    assert (card.image_size, card.latent_channels, card.downsampling) == (56, 32, 14)
    assert (card.has_decoder, card.is_of_one_size) == (False, False)
    assert card.spec["mean"] == [0.485, 0.456, 0.406] and json.loads(json.dumps(card.spec)) == card.spec


def test_decoding_says_that_there_is_no_decoder(store, saved, photos, tmp_path):
    with pytest.raises(UsageError, match=NO_DECODER):
        decode_store(DecodeRequest(store=str(store), out_dir=tmp_path, device="cpu"), Silent())
    for request in (
        EvalRequest(models=(f"timm:{saved}",), data=str(photos), metrics=("rfid",), device="cpu"),
        EvalRequest(store=str(store), metrics=("psnr",), device="cpu"),
    ):
        with pytest.raises(UsageError, match=NO_DECODER):
            evaluate(request, Silent())
    with pytest.raises(UsageError, match=NO_DECODER):
        load_autoencoder(f"timm:{saved}").decode(torch.zeros(1, 32, 2, 2))


def test_verifying_says_that_there_is_no_decoder_and_checks_the_rest(store, tmp_path):
    report = verify_store(VerifyRequest(store=str(store), picture=tmp_path / "picture.png", device="cpu"), Silent())
    assert (report.num_problems, report.picture) == (0, None)
    assert [each for each in report.not_checked if each.endswith("has no decoder")] == report.not_checked != []


def test_a_dry_run_counts_the_encoder(saved, photos, tmp_path):
    request = EncodeRequest(source=str(photos), store=str(tmp_path / "store.zarr"), model=f"timm:{saved}", device="cpu")
    plan = plan_encoding(EncodePlanRequest(encode=request, num_ranks=1), Silent())
    assert 0 < plan.encoder_parameters <= read_card(f"timm:{saved}").num_parameters


def test_int8_which_is_judged_by_decoded_images_is_refused(saved, photos, encode, tmp_path):
    with pytest.raises(UsageError, match=r"--dtype int8 measures what it costs on decoded images, and timm:.* has no"):
        encode(photos, tmp_path / "store.zarr", model=f"timm:{saved}", dtype="int8")


def test_the_hash_is_of_the_tensors_and_of_how_images_are_normalised(saved, copy):
    before = read_card(f"timm:{saved}").encoder_hash
    assert read_card(f"timm:{copy}").encoder_hash == before
    tensors = load_file(copy / "model.safetensors")
    save_file(tensors | {"head.weight": torch.zeros(2)}, copy / "model.safetensors")  # which features do not pass
    assert read_card(f"timm:{copy}").encoder_hash == before
    save_file(tensors | {"norm.bias": tensors["norm.bias"] + 1}, copy / "model.safetensors")
    assert read_card(f"timm:{copy}").encoder_hash != before

    save_file(tensors, copy / "model.safetensors")
    config = json.loads((copy / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.5, 0.5, 0.5]
    (copy / "config.json").write_text(json.dumps(config))
    assert read_card(f"timm:{copy}").encoder_hash != before


@pytest.mark.parametrize(
    ("name", "repository", "revision"),
    [
        ("timm:vit_small@v2", "timm/vit_small", "v2"),
        ("timm:someone/something", "someone/something", None),
    ],
)
def test_models_that_timm_publishes_need_no_organisation(saved, monkeypatch, name, repository, revision):
    asked = []

    def fetch(*names):
        asked.append(names)
        return saved / names[1]

    monkeypatch.setattr("tcae_cli.autoencoders.model_files.fetch_model_file", fetch)
    assert read_card(name).encoder_hash == read_card(f"timm:{saved}").encoder_hash
    assert asked == [(repository, file, revision) for file in ("config.json", "model.safetensors")]


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_folder_that_timm_has_not_saved_is_refused(copy, file):
    (copy / file).unlink()
    with pytest.raises(NotFoundError, match=rf"copy holds no {file}; name a model that timm has saved"):
        read_card(f"timm:{copy}")


def test_a_config_that_is_not_timms_is_refused(copy):
    (copy / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config.json is not a config.json of timm"):
        read_card(f"timm:{copy}")


def test_an_architecture_that_timm_does_not_know_is_refused(copy):
    config = json.loads((copy / "config.json").read_text()) | {"architecture": "vit_of_tomorrow"}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"is vit_of_tomorrow, which this version of timm does not make \(.*; upgr"
    ):
        read_card(f"timm:{copy}")


def test_weights_of_another_shape_are_refused(copy):
    tensors = load_file(copy / "model.safetensors")
    del tensors["norm.bias"]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model.safetensors does not fit its config.json \(.*; fetch it again"):
        load_autoencoder(f"timm:{copy}")
