"""Frozen pretrained networks by name, as lists of feature maps, for perceptual losses and discriminators."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from tcae_cli.features import dino
from tcae_cli.features.normalised import NormalisedNetwork
from tcae_cli.features.weights import load_pretrained
from tcae_cli.runtime.device import autocast

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class _Network:
    architecture: str  # of torchvision
    taps: tuple[int, ...]  # layers whose output is a feature map
    channel_weights: str | None = None  # LPIPS's learnt weights, shipped inside torchmetrics


NETWORKS = {
    "lpips-vgg": _Network("vgg16", (3, 8, 15, 22, 29), "vgg.pth"),
    "lpips-alex": _Network("alexnet", (1, 4, 7, 9, 11), "alex.pth"),
    "squeezenet1_1": _Network("squeezenet1_1", (1, 4, 7, 9, 10, 11, 12)),
}


class FeatureNetwork(NormalisedNetwork):
    """Feature maps of a frozen network: images [b, 3, h, w] in [-1, 1] to a list of [b, c, h, w], float32."""

    def __init__(self, layers: nn.Sequential, taps: tuple[int, ...], channel_weights: list[Tensor] | None) -> None:
        super().__init__(_IMAGENET_MEAN, _IMAGENET_STD)
        self.layers = layers[: max(taps) + 1]
        self.taps = frozenset(taps)
        # [1, c, 1, 1] for each tap; parameters move between devices with the network
        self.channel_weights = None if channel_weights is None else nn.ParameterList(channel_weights)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.normalise((images + 1) / 2)
        maps = []
        with autocast(images.device, self.precision):
            for position, layer in enumerate(self.layers):
                x = layer(x)
                if position in self.taps:
                    maps.append(x.to(images.dtype))
        return maps


def load_feature_network(
    name: str, weights: Path | None = None, instead: str = "set loss.perceptual to none in the recipe"
) -> FeatureNetwork:
    """Load a network of NETWORKS with its pretrained weights, from `weights` or from torch's hub cache.

    Raises WeightsError, naming the file, the option and the advice `instead`, if the weights can neither be found nor
    fetched, or do not fit.
    """
    return _feature_network(name, load_pretrained(lambda: _architecture(name), name, weights, instead))


def unfilled_feature_network(name: str) -> FeatureNetwork:
    """Return a network of NETWORKS without its pretrained weights, to count what it costs."""
    return _feature_network(name, _architecture(name))


def load_discriminator_features(name: str, weights: Path | None = None) -> tuple[NormalisedNetwork, list[int]]:
    """Load the network whose maps a discriminator's heads judge, and return it with the channels of its maps.

    It is a DINO of features/dino.py, or of NETWORKS. Raises WeightsError, naming the file and the option, if weights
    can neither be found nor fetched, or do not fit.
    """
    if name in dino.NETWORKS:
        return dino.load_dino(name, weights), [dino.DINO_WIDTH] * dino.NUM_MAPS
    instead = "set loss.adversarial.discriminator to patchgan in the recipe"
    return _with_channels(load_feature_network(name, weights, instead))


def unfilled_discriminator_features(name: str) -> tuple[NormalisedNetwork, list[int]]:
    """Return what load_discriminator_features does, without pretrained weights, to count what it costs."""
    if name in dino.NETWORKS:
        return dino.DinoFeatures(dino.transformer(name)), [dino.DINO_WIDTH] * dino.NUM_MAPS
    return _with_channels(unfilled_feature_network(name))


def _with_channels(network: FeatureNetwork) -> tuple[NormalisedNetwork, list[int]]:
    return network, [feature_map.shape[1] for feature_map in network(torch.zeros(1, 3, 64, 64))]


def _architecture(name: str) -> Any:
    return getattr(torchvision.models, NETWORKS[name].architecture)(weights=None)


def _feature_network(name: str, model: Any) -> FeatureNetwork:
    # In-place activations would overwrite the feature maps handed out before them.
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    network = NETWORKS[name]
    return FeatureNetwork(model.features, network.taps, _channel_weights(network))


def _channel_weights(network: _Network) -> list[Tensor] | None:
    if network.channel_weights is None:
        return None
    package = find_spec("torchmetrics")  # importing it would take seconds
    assert package is not None and package.origin is not None
    folder = Path(package.origin).parent / "functional" / "image" / "lpips_models"
    learnt = torch.load(folder / network.channel_weights, map_location="cpu", weights_only=True)
    return [learnt[f"lin{tap}.model.1.weight"] for tap in range(len(network.taps))]
