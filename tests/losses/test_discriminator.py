"""Discriminators judge each image by itself, learn to tell sets apart, and leave their frozen network alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor, nn

from tcae_cli.errors import RecipeError
from tcae_cli.features.backbone import NETWORKS, FeatureNetwork, load_discriminator_features
from tcae_cli.losses.adversarial import discriminator_loss, generator_loss
from tcae_cli.losses.discriminator import update_spectral_norms
from tcae_cli.losses.feature_discriminator import FeatureDiscriminator
from tcae_cli.losses.patchgan import PatchGan
from tcae_cli.recipe.load import load_recipe
from tcae_cli.recipe.schema import Recipe

SQUEEZENET = Path(__file__).parents[3] / "shared" / "weights" / "squeezenet1_1-onnxzoo.safetensors"


@pytest.fixture
def network() -> FeatureNetwork:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU())
    return FeatureNetwork(layers, taps=(1, 3), channel_weights=None)


@pytest.fixture(params=["features", "patchgan"])
def discriminator(request, network) -> nn.Module:
    torch.manual_seed(1)
    return FeatureDiscriminator(network, [8, 12]) if request.param == "features" else PatchGan()


@pytest.fixture(scope="module")
def photographs(photos) -> Tensor:
    """[24, 3, 48, 48] in [-1, 1]."""
    pixels = [np.asarray(Image.open(path).crop((24, 12, 72, 60))) for path in sorted(photos.rglob("*.jpg"))]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 127.5 - 1


def in_blocks(images: Tensor) -> Tensor:
    """Images of 8 x 8 pixel blocks, as an autoencoder without detail would give them."""
    return F.interpolate(F.avg_pool2d(images, 8), scale_factor=8.0)


def loss_after(steps: int, discriminator: nn.Module, photographs: Tensor, lr: float) -> float:
    """On photographs that are not trained on. Below 1 it tells them from blocks: no constant logit gets there."""
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=lr)
    for _ in range(steps):
        update_spectral_norms(discriminator)
        optimizer.zero_grad()
        loss_of(discriminator, photographs[::4]).backward()
        optimizer.step()
    with torch.no_grad():
        return float(loss_of(discriminator, photographs[1::4]))


def loss_of(discriminator: nn.Module, images: Tensor) -> Tensor:
    """In one pass: an image's logits are its own."""
    return discriminator_loss(*discriminator(torch.cat([images, in_blocks(images)])).chunk(2))


def test_every_position_of_every_map_gets_a_logit(network):
    logits = FeatureDiscriminator(network, [8, 12])(torch.zeros(2, 3, 32, 24))

    assert logits.shape == (2, 32 * 24 + 15 * 11)


def test_a_patchgan_gives_a_logit_a_patch():
    assert PatchGan()(torch.zeros(2, 3, 64, 64)).shape == (2, 6 * 6)
    assert PatchGan()(torch.zeros(1, 3, 24, 24)).shape == (1, 1)


@pytest.mark.parametrize(("name", "least"), [("squeezenet1_1", 33), ("patchgan", 24)])
def test_a_recipe_for_images_too_small_to_judge_is_refused(name, least, tmp_path):
    def load(size: int) -> Recipe:
        model = {"image_size": size, "patch_size": size, "downsampling": size, "staged": False}
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps({"model": model, "loss": {"adversarial": {"discriminator": name}}}))
        return load_recipe(path, ["train.steps=1"])

    assert load(least).model.image_size == least
    with pytest.raises(RecipeError) as refused:
        load(least - 1)
    assert str(refused.value).endswith(
        f"model.image_size {least - 1} is less than the {least} pixels that loss.adversarial.discriminator {name} "
        "needs; use larger images or another discriminator"
    )


def test_a_squeezenet_and_a_patchgan_judge_images_of_the_least_size_a_recipe_may_have_and_no_smaller():
    spec = NETWORKS["squeezenet1_1"]
    squeezenet = FeatureNetwork(torchvision.models.squeezenet1_1().features, spec.taps, channel_weights=None)
    heads = FeatureDiscriminator(squeezenet, [64, 128, 256, 384, 384, 512, 512])
    for discriminator, least in ((heads, 33), (PatchGan(), 24)):
        assert discriminator(torch.zeros(1, 3, least, least)).isfinite().all()
        with pytest.raises(ValueError, match="more than 1 spatial element"):
            discriminator(torch.zeros(1, 3, least - 1, least - 1))


def test_a_head_is_what_the_description_says(network):
    torch.manual_seed(2)
    discriminator = FeatureDiscriminator(network, [8, 12]).eval()
    images = torch.rand(2, 3, 12, 12) * 2 - 1
    expected = []
    for head, found in zip(discriminator.heads, network(images), strict=True):
        x = found.flatten(2)
        x = _normed(F.conv1d(x, head.mix[0].weight, head.mix[0].bias))
        circular = torch.cat([x[..., -4:], x, x[..., :4]], dim=-1)
        x = (x + _normed(F.conv1d(circular, head.neighbours[0].weight, head.neighbours[0].bias))) / 2**0.5
        expected.append(F.conv1d(x, head.to_logit.weight, head.to_logit.bias).squeeze(1))

    torch.testing.assert_close(discriminator(images), torch.cat(expected, dim=1))


def test_only_the_heads_train_and_are_saved(network):
    discriminator = FeatureDiscriminator(network, [8, 12])
    images = torch.rand(1, 3, 16, 16).requires_grad_()
    discriminator(images).sum().backward()

    assert all(name.startswith("heads.") for name in discriminator.state_dict())
    assert {id(p) for p in discriminator.parameters()}.isdisjoint(id(p) for p in network.parameters())
    assert all(parameter.grad is not None for parameter in discriminator.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert images.grad.abs().sum() > 0


def test_the_network_moves_with_its_heads_and_stays_in_eval_mode(network):
    discriminator = FeatureDiscriminator(network, [8, 12]).double().train()

    assert discriminator(torch.zeros(1, 3, 16, 16, dtype=torch.float64)).dtype == torch.float64
    assert not network.training


def test_a_frozen_network_computes_in_bf16_where_it_is_told_to_and_the_heads_in_float32(network, photographs):
    discriminator = FeatureDiscriminator(network, [8, 12]).eval()
    seen = []
    for layer in (network.layers[2], discriminator.heads[1].mix[0]):
        layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output.dtype))
    exact = discriminator(photographs[:2])
    network.precision = "bf16"
    leaf = photographs[:2].clone().requires_grad_()
    rounded = discriminator(leaf)
    rounded.sum().backward()

    assert seen == [torch.float32, torch.float32, torch.bfloat16, torch.float32]
    assert rounded.dtype == leaf.grad.dtype == torch.float32 and leaf.grad.any()
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.1)


def test_every_weight_has_spectral_norm_one(discriminator):
    for _ in range(25):
        update_spectral_norms(discriminator)
    layers = [module for module in discriminator.modules() if isinstance(module, nn.Conv1d | nn.Conv2d)]

    assert len(layers) == (5 if isinstance(discriminator, PatchGan) else 6)
    weights = [layer.weight.detach().flatten(1) for layer in layers]
    norms = [float(torch.linalg.eigvalsh(weight @ weight.mT)[-1].sqrt()) for weight in weights]
    assert norms == pytest.approx([1.0] * len(layers), rel=0.05)


@pytest.mark.parametrize("training", [True, False])
def test_an_images_logits_are_its_own(discriminator, training, photographs):
    discriminator.train(training)
    state = {name: value.clone() for name, value in discriminator.state_dict().items()}
    together = discriminator(photographs[:2])
    alone = []
    for image in photographs[:2].split(1):
        discriminator.load_state_dict(state)  # training mode has moved the spectral norms' estimates
        alone.append(discriminator(image))

    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-5)


def test_spectral_norms_move_when_told_to_and_not_with_forward_passes(discriminator, photographs):
    update_spectral_norms(discriminator)
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    discriminator(photographs[:2])
    assert all(torch.equal(value, before[name]) for name, value in discriminator.state_dict().items())

    update_spectral_norms(discriminator)
    moved = {name for name, value in discriminator.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.endswith(("._u", "._v")) for name in moved)


def test_the_generators_loss_reaches_the_images_alone_where_heads_are_held(discriminator, photographs):
    discriminator.requires_grad_(False)
    leaf = photographs[:1].clone().requires_grad_()
    generator_loss(discriminator(leaf)).backward()

    assert leaf.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in discriminator.parameters())


def test_a_patchgan_learns_to_tell_photographs_from_blocks(photographs):
    torch.manual_seed(0)
    discriminator = PatchGan()

    assert loss_after(0, discriminator, photographs, lr=2e-4) > 0.98
    assert loss_after(4, discriminator, photographs, lr=2e-4) < 0.9


@pytest.mark.skipif(not SQUEEZENET.is_file(), reason="the pretrained SqueezeNet is not in ../shared/weights")
def test_heads_on_a_pretrained_network_learn_to_tell_photographs_from_blocks(photographs):
    torch.manual_seed(0)
    network, channels = load_discriminator_features("squeezenet1_1", SQUEEZENET)
    discriminator = FeatureDiscriminator(network, channels)

    assert channels == [64, 128, 256, 384, 384, 512, 512]
    assert loss_after(0, discriminator, photographs, lr=2e-3) > 0.98
    assert loss_after(6, discriminator, photographs, lr=2e-3) < 0.94


def _normed(x: Tensor) -> Tensor:
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return torch.where(x > 0, x, 0.2 * x)
