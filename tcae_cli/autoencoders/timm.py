"""The family of encoders of timm, whose patch features are latents that nothing decodes.

Axes: b batch, h w pixels, c channels of the features, f pixels a feature covers along a side.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from tcae_cli.autoencoders.families import ModelCard, no_decoder_words
from tcae_cli.autoencoders.model_files import find_file, first_line, hash_tensors, read_tensors
from tcae_cli.autoencoders.published import published_in_timm
from tcae_cli.errors import CheckpointError, NotFoundError, UsageError

_PREFIX = "timm:"
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_VERSION = 1  # raised when `encode` computes something else


class PatchFeatures(nn.Module):
    """The features of a model's last block after its final norm, at each patch: without class and register tokens."""

    model: Any  # a model of timm
    mean: Tensor
    std: Tensor

    def __init__(self, name: str, model: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.model = model
        self._name = name
        for key, values in (("mean", mean), ("std", std)):
            self.register_buffer(key, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def encode(self, images: Tensor) -> Tensor:
        """Return features [b, c, h/f, w/f] of images [b, 3, h, w] in [-1, 1]."""
        normalised = ((images + 1) / 2 - self.mean) / self.std
        # The number of last blocks to give, which is one.
        features: list[Tensor] = self.model.forward_intermediates(
            normalised, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return features[-1]

    def decode(self, latents: Tensor) -> Tensor:
        """Raise UsageError: features become no images."""
        raise UsageError(no_decoder_words(self._name))


class TimmModel:
    """The encoder of `timm:NAME[@revision]`, which timm publishes, of `timm:org/name[@revision]` or `timm:FOLDER`."""

    about = "encoders of timm, without a decoder: timm:NAME[@revision], timm:org/name[@revision] or timm:FOLDER"
    published = staticmethod(published_in_timm)

    def __init__(self, name: str) -> None:
        """Fetch what is not in the Hub's cache.

        Raises NotFoundError if the name leads nowhere, CheckpointError if it is no model of timm that gives features.
        """
        self._name = name
        target = name.removeprefix(_PREFIX)
        if "/" not in target and not Path(target).is_dir():
            target = f"timm/{target}"
        config = _find(name, target, _CONFIG)
        try:
            stored = json.loads(config.read_bytes())
            self._architecture = str(stored["architecture"])
            self._arguments = {"global_pool": stored["global_pool"]} if "global_pool" in stored else {}
            self._arguments |= stored.get("model_args", {}) | {"num_classes": 0}
            pretrained = stored["pretrained_cfg"]
            self._mean, self._std = list(pretrained["mean"]), list(pretrained["std"])
            self._size = int(pretrained["input_size"][1])
            fixed = bool(pretrained.get("fixed_input_size"))
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise CheckpointError(f"{config} is not a {_CONFIG} of timm") from error
        self._weights = _find(name, target, _WEIGHTS)
        with torch.device("meta"):
            self._skeleton, resizes_positions = _build(name, self._architecture, self._arguments)
        self._is_of_one_size = fixed and not resizes_positions
        self._trial = self._try_out()

    def card(self) -> ModelCard:
        """Return the card. Raises CheckpointError if the weights are damaged."""
        about = {"library": "timm", "class": self._architecture, "arguments": self._arguments}
        spec = json.loads(json.dumps(about | {"mean": self._mean, "std": self._std}))
        digest = hashlib.sha256(json.dumps([_PREFIX, _VERSION, spec], sort_keys=True).encode())
        hash_tensors(digest, self._weights, self._skeleton.state_dict().__contains__)
        return ModelCard(
            name=self._name,
            encoder_hash=digest.hexdigest(),
            image_size=self._size,
            latent_channels=self._trial.shape[1],
            downsampling=self._size // self._trial.shape[2],
            spec=spec,
            recipe={},
            num_parameters=sum(each.numel() for each in self._skeleton.parameters()),
            is_of_one_size=self._is_of_one_size,
            has_decoder=False,
        )

    def load(self, device: str | torch.device) -> PatchFeatures:
        """Return the model on the device: frozen, float32, in eval mode. Raises CheckpointError for misfits."""
        model, _ = _build(self._name, self._architecture, self._arguments)
        tensors = read_tensors(self._weights)
        wanted = model.state_dict().keys()
        try:
            model.load_state_dict({key: value for key, value in tensors.items() if key in wanted})
        except RuntimeError as error:
            raise CheckpointError(
                f"{self._weights} does not fit its {_CONFIG} ({first_line(error)}); fetch it again"
            ) from error
        features = PatchFeatures(self._name, model, self._mean, self._std)
        return features.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def _try_out(self) -> Tensor:
        """Return the features of an image, as shapes alone. Raises CheckpointError if they are no square of patches."""
        side = self._size
        with torch.device("meta"):
            model = PatchFeatures(self._name, self._skeleton, self._mean, self._std)
        try:
            features = model.encode(torch.empty(1, 3, side, side, device="meta"))
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self._name} gives no features of patches ({first_line(error)})") from error
        if features.ndim != 4 or features.shape[2] != features.shape[3] or side % features.shape[2]:
            raise CheckpointError(f"{self._name} gives no features of square patches: {list(features.shape)}")
        return features


def _find(name: str, target: str, file: str) -> Path:
    found = find_file(name, target, file)
    if found is None:
        raise NotFoundError(
            f"{name} holds no {file}; name a model that timm has saved, such as {_PREFIX}resnet50.a1_in1k"
        )
    return found[1]


def _build(name: str, architecture: str, arguments: dict[str, Any]) -> tuple[Any, bool]:
    """Return a model without its weights, and whether it resizes its positions for images of other sizes."""
    try:
        try:
            return timm.create_model(architecture, pretrained=False, **arguments, dynamic_img_size=True), True
        except TypeError:  # it has no positions to resize
            return timm.create_model(architecture, pretrained=False, **arguments), False
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{name} is {architecture}, which this version of timm does not make ({first_line(error)}); upgrade timm"
        ) from error
