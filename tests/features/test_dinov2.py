"""DINOv2's class token, of a small network in place of the large one, whose file is 1.2 GB; nothing is downloaded."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from tcae_cli.errors import WeightsError
from tcae_cli.features import dinov2
from tcae_cli.features.dinov2 import Dinov2Features, load_dinov2

SMALL = "vit_small_patch14_dinov2"
WIDTH = 384
MEAN, STD = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]


@pytest.fixture(autouse=True, scope="module")
def small_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(dinov2, "_ARCHITECTURE", SMALL)
        yield


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """A small DINOv2 for images of 518 pixels, with random weights that all matter."""
    torch.manual_seed(0)
    model = timm.create_model(SMALL, pretrained=False, num_classes=0).requires_grad_(False).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "gamma", "pos_embed", "cls_token")):
            parameter.normal_(std=0.5)
    return model


@pytest.fixture(scope="module")
def tensors(reference) -> dict[str, Tensor]:
    """The weights as timm publishes them."""
    return reference.state_dict()


@pytest.fixture(scope="module")
def file(tensors, tmp_path_factory) -> Path:
    """The weights as Meta publishes them."""
    path = tmp_path_factory.mktemp("weights") / "dinov2_vitl14_pretrain.pth"
    torch.save(tensors | {"mask_token": torch.zeros(1, WIDTH)}, path)
    return path


@pytest.fixture(scope="module")
def network(file) -> Dinov2Features:
    return load_dinov2(file)


@pytest.fixture(scope="module")
def photo(photos) -> Image.Image:
    with Image.open(min(photos.rglob("*.jpg"))) as photo:
        return photo.convert("RGB")


@pytest.fixture
def caches(tmp_path, monkeypatch) -> Path:
    """Empty caches of torch's hub and of Hugging Face."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    return tmp_path


def bicubic(old: int, new: int, scale: float) -> Tensor:
    """[new, old]: weights of old pixels in new ones, Keys' cubic of a = -0.75, the border repeated, no antialiasing."""
    weights = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) / scale - 0.5
        for place in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            x = abs(centre - place)
            near, far = 1.25 * x**3 - 2.25 * x**2 + 1, -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            weights[row, np.clip(place, 0, old - 1)] += near if x <= 1 else far
    return torch.from_numpy(weights).float()


def test_positions_are_resized_as_in_metas_code(network, tensors):
    weights = bicubic(37, 16, scale=16.1 / 37)
    grid = tensors["pos_embed"][0, 1:].reshape(37, 37, WIDTH)
    patches = torch.einsum("iy,jx,yxd->ijd", weights, weights, grid).reshape(256, WIDTH)

    positions = network.transformer.pos_embed
    torch.testing.assert_close(positions[0, 1:], patches, rtol=0, atol=1e-4)
    assert torch.equal(positions[:, :1], tensors["pos_embed"][:, :1])


def test_features_are_the_class_token_after_the_final_norm(network, reference, photo):
    image = pil_to_tensor(photo.resize((224, 224)))[None]
    patches = reference.patch_embed.proj((image / 255 - MEAN) / STD).flatten(2).mT
    tokens = torch.cat([reference.cls_token, patches], dim=1) + network.transformer.pos_embed
    expected = reference.norm(reference.blocks(tokens))[:, 0]

    features = network(image)
    assert features.shape == (1, WIDTH) and features.dtype == torch.float32
    assert expected.std() > 0.1
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(72, 96), (512, 384)])
def test_images_are_resized_as_pillow_does_but_for_rounding(network, photo, size):
    seen = []
    image = photo.resize(size, Image.Resampling.LANCZOS)
    hook = network.transformer.patch_embed.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    network(pil_to_tensor(image)[None])
    hook.remove()

    pillows = pil_to_tensor(image.resize((224, 224), Image.Resampling.BICUBIC))
    difference = ((seen[0] * STD + MEAN) * 255).clamp(0, 255) - pillows
    assert difference.abs().max() < 2 and difference.abs().mean() < 0.5  # Pillow rounds after each axis


def test_the_network_is_frozen(network):
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())


def test_weights_are_found_in_the_cache_of_torchs_hub(caches, file, tensors):
    cached = caches / "torch" / "hub" / "checkpoints" / "dinov2_vitl14_pretrain.pth"
    cached.parent.mkdir(parents=True)
    cached.symlink_to(file)

    assert torch.equal(load_dinov2().transformer.norm.bias, tensors["norm.bias"])


def test_weights_are_found_in_the_cache_of_hugging_face(caches, tensors):
    repository = caches / "huggingface" / "models--timm--vit_large_patch14_dinov2.lvd142m"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    safetensors.torch.save_file(tensors, repository / "snapshots" / "abc" / "model.safetensors")

    assert torch.equal(load_dinov2().transformer.norm.bias, tensors["norm.bias"])


def test_missing_weights_are_named_with_the_ways_to_give_them(caches):
    with pytest.raises(WeightsError) as refused:
        load_dinov2()

    assert str(refused.value) == (
        f"dinov2 needs dinov2_vitl14_pretrain.pth, which is not in {caches}/torch/hub/checkpoints and could not be "
        "fetched from https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth: "
        "TCAE_OFFLINE is set; copy it there from a machine with a network (tcae weights --fetch dinov2), "
        "pass --weights dinov2=PATH, or omit the metrics that need it"
    )


def test_weights_of_another_network_are_refused(tensors, tmp_path):
    torch.save(tensors | {"register_tokens": torch.zeros(1, 4, WIDTH)}, tmp_path / "registers.pth")

    with pytest.raises(
        WeightsError, match=r"registers\.pth does not hold the weights of dinov2; what fits is dinov2_v"
    ):
        load_dinov2(tmp_path / "registers.pth")
