"""`tcae models`: the families, what is published and cached of them, and the card of a model."""

import json
import re
import shutil
from pathlib import Path

import diffusers
import pytest
import timm
import torch

from tcae_cli.autoencoders.families import FAMILIES
from tcae_cli.autoencoders.published import published_in_diffusers, published_in_timm

from ..small_diffusers import DC_F32C32, save_family, save_kl

_BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
_KL = _BLOCKS | {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
_FLUX = _KL | {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
_WAN22 = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
}
# The classes and configurations that are published under the names.
PUBLISHED = {
    "stabilityai/sd-vae-ft-mse": ("AutoencoderKL", _KL),
    "madebyollin/sdxl-vae-fp16-fix": ("AutoencoderKL", _KL),
    "madebyollin/taesd": ("AutoencoderTiny", {}),
    "mit-han-lab/dc-ae-f32c32-in-1.0-diffusers": ("AutoencoderDC", DC_F32C32),
    "nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08": (
        "AutoencoderRAE",
        {"decoder_hidden_size": 1152, "decoder_num_hidden_layers": 28, "decoder_intermediate_size": 4096},
    ),
    "black-forest-labs/FLUX.1-schnell": ("AutoencoderKL", _FLUX),
    "black-forest-labs/FLUX.2-klein-4B": ("AutoencoderKLFlux2", {}),
    "Qwen/Qwen-Image": ("AutoencoderKLQwenImage", {}),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": ("AutoencoderKLWan", {}),
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": ("AutoencoderKLWan", _WAN22),
    "hunyuanvideo-community/HunyuanVideo": ("AutoencoderKLHunyuanVideo", {}),
    "genmo/mochi-1-preview": ("AutoencoderKLMochi", {}),
}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    """An empty cache of the Hub's client."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def rows(shown: str) -> dict[str, list[str]]:
    """The cells of the tables by the model's name."""
    table = [re.split(" {2,}", line.strip()) for line in shown.splitlines()]
    return {row[0]: row[1:] for row in table if len(row) > 3}


def test_every_family_is_listed_with_models_that_can_be_had(tcae):
    code, stdout, stderr = tcae("models")
    listed = rows(stdout)
    assert (code, stderr) == (0, "")
    assert all(family.about in stdout for family in FAMILIES.values())
    assert listed["tcae-tiny"][:3] == ["128", "32", "7.5 M"] and listed["tcae-tiny"][-1].endswith(".safetensors")
    assert listed["diffusers:Qwen/Qwen-Image"] == ["16", "8", "126.9 M", "Apache-2.0", "not cached"]


def test_what_a_cache_holds_is_listed_with_its_path(tcae, cache, tmp_path):
    save_family("tiny", tmp_path / "model")
    snapshot = cache / "models--madebyollin--taesd" / "snapshots" / ("0" * 40)
    shutil.copytree(tmp_path / "model", snapshot)
    (cache / "models--madebyollin--taesd" / "refs").mkdir()
    (cache / "models--madebyollin--taesd" / "refs" / "main").write_text("0" * 40)

    families = json.loads(tcae("models", "--json")[1])["families"]
    paths = {model["name"]: model["path"] for family in families for model in family["models"]}
    assert paths["diffusers:madebyollin/taesd"] == str(snapshot / "diffusion_pytorch_model.safetensors")
    assert paths["diffusers:Qwen/Qwen-Image"] is None


def test_the_figures_of_published_models_are_those_of_their_classes():
    listed = {each.name.removeprefix("diffusers:"): each for each in published_in_diffusers()}
    assert listed.keys() == PUBLISHED.keys()
    for name, (class_name, config) in PUBLISHED.items():
        with torch.device("meta"):
            model = getattr(diffusers, class_name)(**config)
        assert sum(each.numel() for each in model.parameters()) == listed[name].num_parameters, name


def test_the_figures_of_published_encoders_of_timm_are_those_of_their_architectures():
    for each in published_in_timm():
        with torch.device("meta"):
            model = timm.create_model(each.name.removeprefix("timm:").partition(".")[0], num_classes=0)
        assert sum(value.numel() for value in model.parameters()) == each.num_parameters, each.name
        assert (model.num_features, model.patch_embed.patch_size[0]) == (each.channels, each.downsampling)


def test_a_card_says_what_is_known_of_a_model(tcae, tmp_path):
    save_kl(tmp_path / "model", force_upcast=True)
    code, stdout, _ = tcae("models", f"diffusers:{tmp_path / 'model'}")
    words = dict(re.split(" {2,}", line.strip()) for line in stdout.splitlines()[1:])
    assert code == 0 and len(words.pop("encoder")) == 64
    assert words == {
        "latents": "4 channels, a position for 4 x 4 pixels",
        "images": "64 px",
        "generators": "take (latents - 0.1159) x 0.3611",
        "posterior": "latents are means of a distribution, whose deviations --posterior stores",
        "parameters": "0.1 M",
        "precision": "overflows in float16; encoded in bf16 or float32",
        "class": "AutoencoderKL of diffusers",
    }


def test_a_card_is_json(tcae):
    card = json.loads(tcae("models", "tcae-tiny", "--json")[1])
    assert (card["channels"], card["downsampling"], card["image_size"]) == (128, 32, 256)
    assert not card["has_posterior"]
    assert len(card["generator"]["shift"]) == 128 and card["spec"]["latent_channels"] == 128


def test_the_card_of_no_model_is_refused(tcae):
    code, _, stderr = tcae("models", "nowhere")
    assert code == 2 and "no model at nowhere; give a file, a run folder, hf://org/name or tcae-tiny" in stderr
