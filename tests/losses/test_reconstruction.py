import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from tcae_cli.errors import WeightsError
from tcae_cli.features.backbone import FeatureNetwork, load_feature_network
from tcae_cli.losses.perceptual import PerceptualDistance
from tcae_cli.losses.reconstruction import ReconstructionLoss
from tcae_cli.recipe.schema import LossSpec, PerceptualSpec


@pytest.fixture
def network() -> FeatureNetwork:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2), nn.ReLU())
    weights = [torch.rand(1, channels, 1, 1) for channels in (4, 5)]
    return FeatureNetwork(layers, taps=(1, 3), channel_weights=weights)


def no_network(name: str):
    raise AssertionError(f"the recipe has no perceptual distance, yet it loads {name}")


def images(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_l1_is_the_mean_absolute_error_of_pixels_in_0_to_1():
    black, white = -torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4)

    loss = ReconstructionLoss(LossSpec(perceptual=None), no_network)
    assert loss(black, white) == {"l1": torch.tensor(1.0), "loss": torch.tensor(1.0)}


def test_the_total_weighs_each_term(network):
    loss = ReconstructionLoss(LossSpec(l1=2.0, perceptual=PerceptualSpec(weight=0.5)), lambda name: network)

    assert loss.weighted_sum({"l1": torch.tensor(3.0), "perceptual": torch.tensor(4.0)}) == 8.0


def test_perceptual_distance_equals_a_plain_reference(network):
    a, b = images(1), images(2)
    expected = torch.zeros(2)
    for map_a, map_b, weight in zip(network(a), network(b), network.channel_weights, strict=True):
        for image in range(2):
            unit_a = map_a[image] / map_a[image].pow(2).sum(0).sqrt().clamp_min(1e-12)
            unit_b = map_b[image] / map_b[image].pow(2).sum(0).sqrt().clamp_min(1e-12)
            expected[image] += (weight[0] * (unit_a - unit_b) ** 2).sum(0).mean()

    torch.testing.assert_close(PerceptualDistance(network)(a, b), expected)


def test_the_distance_of_features_in_bf16_is_computed_in_float32(network):
    a, b = images(1), images(2)
    exact = PerceptualDistance(network)(a, b)
    network.precision = "bf16"
    assert {feature_map.dtype for feature_map in network(a)} == {torch.float32}

    rounded = PerceptualDistance(network)(a, b)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0)


def test_the_channels_weights_move_with_the_network(network):
    assert [weight.device.type for weight in network.to("meta").channel_weights] == ["meta", "meta"]


def test_the_feature_network_stays_as_it_is_and_the_images_get_the_gradient(network):
    decoded = images(1).requires_grad_()
    PerceptualDistance(network)(decoded, images(2)).sum().backward()

    assert decoded.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_missing_weights_are_named_with_the_ways_to_give_them(tmp_path):
    with pytest.raises(WeightsError) as refused:
        load_feature_network("lpips-vgg", tmp_path / "none.pth")

    for part in ("vgg16-397923af.pth", "https://download.pytorch.org/", "--weights lpips-vgg=PATH", "loss.perceptual"):
        assert part in str(refused.value)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")

    with pytest.raises(WeightsError, match="does not hold the weights of squeezenet1_1"):
        load_feature_network("squeezenet1_1", tmp_path / "other.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_network_loads_from_the_file_named(tmp_path, suffix):
    tensors = torchvision.models.squeezenet1_1(weights=None).state_dict()
    path = tmp_path / f"weights{suffix}"
    safetensors.torch.save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)

    maps = load_feature_network("squeezenet1_1", path)(torch.zeros(1, 3, 64, 64))

    assert [feature_map.shape[1] for feature_map in maps] == [64, 128, 256, 384, 384, 512, 512]
