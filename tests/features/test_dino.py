"""DINO's feature maps from files with the published key names; nothing is downloaded."""

from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F

from tcae_cli.errors import WeightsError
from tcae_cli.features.backbone import load_discriminator_features
from tcae_cli.features.dino import load_dino

WIDTH = 384


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """A ViT-S/16 with random weights and, unlike a fresh one, biases."""
    torch.manual_seed(0)
    state = timm.create_model("vit_small_patch16_224.dino", pretrained=False).state_dict()
    return {name: torch.randn_like(t) * 0.1 if name.endswith("bias") else t for name, t in state.items()}


@pytest.fixture(scope="module")
def file(tensors, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "dino_deitsmall16_pretrain.pth"
    torch.save(tensors, path)
    return path


@pytest.fixture
def caches(tmp_path, monkeypatch) -> Path:
    """Empty caches of torch's hub and of Hugging Face."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    return tmp_path


def test_maps_are_those_of_the_blocks_and_of_the_final_norm(tensors, file):
    images = torch.rand(2, 3, 64, 80) * 2 - 1
    model = timm.create_model("vit_small_patch16_224.dino", pretrained=False)
    model.load_state_dict(tensors)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, None, :, None, None]
    resized = F.interpolate(images, (224, 224), mode="bilinear")
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda _block, _inputs, output: seen.append(output))
    with torch.no_grad():
        seen.append(model.eval().forward_features(((resized + 1) / 2 - mean) / std))
    expected = [seen[place][:, 1:].transpose(1, 2).unflatten(2, (14, 14)) for place in (2, 5, 8, 11, 12)]

    maps = load_dino("dino-s16", file)(images)

    assert [feature_map.shape for feature_map in maps] == [(2, WIDTH, 14, 14)] * 5
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-4)


def test_the_bias_of_the_keys_is_zero_and_everything_else_as_in_the_file(tensors, file):
    loaded = load_dino("dino-s16", file).transformer.state_dict()

    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        if name.endswith("qkv.bias"):
            expected = torch.cat([tensor[:WIDTH], torch.zeros(WIDTH), tensor[2 * WIDTH :]])
            assert torch.equal(loaded[name], expected)
        else:
            assert torch.equal(loaded[name], tensor)


def test_the_gradient_reaches_the_images_and_not_the_network(file):
    network, images = load_dino("dino-s16", file), torch.rand(1, 3, 32, 32).requires_grad_()
    sum(feature_map.square().mean() for feature_map in network(images)).backward()

    assert images.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training


def test_a_discriminator_gets_a_network_and_its_channels(tmp_path):
    state = timm.create_model("vit_small_patch8_224.dino", pretrained=False).state_dict()
    safetensors.torch.save_file(state, tmp_path / "s8.safetensors")

    network, channels = load_discriminator_features("dino-s8", tmp_path / "s8.safetensors")

    assert channels == [WIDTH] * 5
    with torch.no_grad():
        assert [feature_map.shape for feature_map in network(torch.zeros(1, 3, 64, 64))] == [(1, WIDTH, 28, 28)] * 5


def test_weights_are_found_in_the_cache_of_torchs_hub(caches, file):
    cached = caches / "torch" / "hub" / "checkpoints" / file.name
    cached.parent.mkdir(parents=True)
    cached.symlink_to(file)

    assert load_dino("dino-s16") is not None


def test_weights_are_found_in_the_cache_of_hugging_face(caches, tensors):
    repository = caches / "huggingface" / "models--timm--vit_small_patch16_224.dino"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    safetensors.torch.save_file(tensors, repository / "snapshots" / "abc" / "model.safetensors")

    loaded = load_dino("dino-s16").transformer.state_dict()
    assert torch.equal(loaded["norm.bias"], tensors["norm.bias"])


def test_missing_weights_are_named_with_the_ways_to_give_them(caches):
    with pytest.raises(WeightsError) as refused:
        load_dino("dino-s8")

    assert str(refused.value) == (
        "dino-s8 needs dino_deitsmall8_pretrain.pth "
        "(https://dl.fbaipublicfiles.com/dino/dino_deitsmall8_pretrain/dino_deitsmall8_pretrain.pth), and "
        f"{caches}/torch/hub/checkpoints/dino_deitsmall8_pretrain.pth does not exist; put it there, "
        "pass --weights dino-s8=PATH, or set loss.adversarial.discriminator to patchgan in the recipe"
    )


def test_a_missing_squeezenet_names_the_discriminators_key_where_it_is_one(tmp_path):
    with pytest.raises(WeightsError, match=r"--weights squeezenet1_1=PATH, or set loss\.adversarial\.discriminator to"):
        load_discriminator_features("squeezenet1_1", tmp_path / "none.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>Not Found</html>"])
def test_files_that_hold_no_tensors_are_refused(tmp_path, suffix, content):
    path = tmp_path / f"page{suffix}"
    path.write_bytes(content)

    with pytest.raises(WeightsError, match="does not hold the weights of dino-s16; what fits is dino_deitsmall16_pret"):
        load_dino("dino-s16", path)


def test_weights_of_another_patch_size_are_refused(file):
    with pytest.raises(WeightsError, match=f"{file} does not hold the weights of dino-s8"):
        load_dino("dino-s8", file)


def test_a_file_with_something_else_than_named_tensors_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")

    with pytest.raises(WeightsError, match="does not hold the weights of dino-s16"):
        load_dino("dino-s16", tmp_path / "list.pth")
