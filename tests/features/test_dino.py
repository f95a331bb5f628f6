"""DINO's feature maps from files with the published key names; nothing is downloaded."""

from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcae_cli.errors import WeightsError
from tcae_cli.features.backbone import load_discriminator_features
from tcae_cli.features.dino import DinoFeatures, load_dino

WIDTH = 384


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """A ViT-S/16 with random weights and, unlike a fresh one, biases."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224.dino", pretrained=False).requires_grad_(False).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(std=0.1)
    return model


@pytest.fixture(scope="module")
def tensors(reference) -> dict[str, Tensor]:
    return reference.state_dict()


@pytest.fixture(scope="module")
def file(tensors, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "dino_deitsmall16_pretrain.pth"
    torch.save(tensors, path)
    return path


@pytest.fixture(scope="module")
def network(file) -> DinoFeatures:
    return load_dino("dino-s16", file)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(1, 3, 64, 80) * 2 - 1


@pytest.fixture(scope="module")
def seen(network, images) -> tuple[Tensor, list[Tensor]]:
    """Images whose gradient is wanted, and their maps."""
    leaf = images.clone().requires_grad_()
    return leaf, network(leaf)


@pytest.fixture
def caches(tmp_path, monkeypatch) -> Path:
    """Empty caches of torch's hub and of Hugging Face."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    return tmp_path


def test_maps_are_those_of_the_blocks_and_of_the_final_norm(reference, images, seen):
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, None, :, None, None]
    resized = F.interpolate(images, (224, 224), mode="bilinear")
    outputs = []
    for block in reference.blocks:
        block.register_forward_hook(lambda _block, _inputs, output: outputs.append(output))
    outputs.append(reference.forward_features(((resized + 1) / 2 - mean) / std))
    expected = [outputs[place][:, 1:].transpose(1, 2).unflatten(2, (14, 14)) for place in (2, 5, 8, 11, 12)]

    maps = seen[1]
    assert [feature_map.shape for feature_map in maps] == [(1, WIDTH, 14, 14)] * 5
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-4)


def test_in_bf16_the_maps_are_near_those_of_float32_and_stay_float32(network, images, seen, monkeypatch):
    monkeypatch.setattr(network, "precision", "bf16")
    rounded = network(images)

    assert {feature_map.dtype for feature_map in rounded} == {torch.float32}
    assert not torch.equal(rounded[-1], seen[1][-1])
    torch.testing.assert_close(rounded, seen[1], rtol=0.05, atol=0.05)


def test_the_bias_of_the_keys_is_zero_and_everything_else_as_in_the_file(network, tensors):
    loaded = network.transformer.state_dict()

    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        if name.endswith("qkv.bias"):
            expected = torch.cat([tensor[:WIDTH], torch.zeros(WIDTH), tensor[2 * WIDTH :]])
            assert torch.equal(loaded[name], expected)
        else:
            assert torch.equal(loaded[name], tensor)


def test_the_gradient_reaches_the_images_and_not_the_network(network, seen):
    leaf, maps = seen
    sum(feature_map.square().mean() for feature_map in maps).backward()

    assert leaf.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training


def test_a_discriminator_gets_a_network_and_its_channels(tensors, tmp_path):
    patches = {"patch_embed.proj.weight": torch.zeros(WIDTH, 3, 8, 8), "pos_embed": torch.zeros(1, 28**2 + 1, WIDTH)}
    safetensors.torch.save_file(tensors | patches, tmp_path / "s8.safetensors")

    network, channels = load_discriminator_features("dino-s8", tmp_path / "s8.safetensors")

    assert channels == [WIDTH] * 5
    maps = network.to("meta")(torch.zeros(1, 3, 64, 64, device="meta"))  # shapes alone, without computing
    assert [feature_map.shape for feature_map in maps] == [(1, WIDTH, 28, 28)] * 5


def test_weights_are_found_in_the_cache_of_torchs_hub(caches, file, tensors):
    cached = caches / "torch" / "hub" / "checkpoints" / file.name
    cached.parent.mkdir(parents=True)
    cached.symlink_to(file)

    assert torch.equal(load_dino("dino-s16").transformer.norm.bias, tensors["norm.bias"])


def test_weights_are_found_in_the_cache_of_hugging_face(caches, tensors):
    repository = caches / "huggingface" / "models--timm--vit_small_patch16_224.dino"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    safetensors.torch.save_file(tensors, repository / "snapshots" / "abc" / "model.safetensors")

    assert torch.equal(load_dino("dino-s16").transformer.norm.bias, tensors["norm.bias"])


def test_missing_weights_are_named_with_the_ways_to_give_them(caches):
    with pytest.raises(WeightsError) as refused:
        load_dino("dino-s8")

    assert str(refused.value) == (
        f"dino-s8 needs dino_deitsmall8_pretrain.pth, which is not in {caches}/torch/hub/checkpoints and could not be "
        "fetched from https://dl.fbaipublicfiles.com/dino/dino_deitsmall8_pretrain/dino_deitsmall8_pretrain.pth: "
        "TCAE_OFFLINE is set; copy it there from a machine with a network (tcae weights --fetch dino-s8), "
        "pass --weights dino-s8=PATH, or set loss.adversarial.discriminator to patchgan in the recipe"
    )


def test_a_missing_squeezenet_names_the_discriminators_key_where_it_is_one(tmp_path):
    with pytest.raises(WeightsError, match=r"--weights squeezenet1_1=PATH, or set loss\.adversarial\.discriminator to"):
        load_discriminator_features("squeezenet1_1", tmp_path / "none.pth")


def test_weights_of_another_patch_size_are_refused(file):
    with pytest.raises(WeightsError, match=f"{file} does not hold the weights of dino-s8"):
        load_dino("dino-s8", file)
