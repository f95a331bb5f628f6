"""Autoencoders of the diffusers library, from a folder or the Hub: what they are, and encode and decode as ours do.

Axes: b batch, h w pixels, c latent channels, f pixels a latent position covers along a side.
"""

import hashlib
import inspect
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tcae_cli.errors import CheckpointError, NotFoundError

PREFIX = "diffusers:"

_CONFIG, _WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
_PIPELINE_FOLDER = "vae/"  # where a whole pipeline keeps its autoencoder
_IMAGE_SIZE = 256  # pixels, of a model that does not say
_TRIAL_SIZE = 256  # pixels; every downsampling in use divides it
_DECODER_PARTS = ("decoder.", "post_quant_conv.")  # what names of tensors that encode does not read begin with
_NOT_IN_THE_HASH = {"sample_size"}  # any size runs through the same tensors


@dataclass(frozen=True)
class DiffusersCard:
    """What such a model is."""

    encoder_hash: str
    image_size: int  # pixels, square
    latent_channels: int
    downsampling: int
    spec: dict[str, Any]  # library, class and the fields of its config; a generator takes (raw - shift) * scale


class DiffusersAutoencoder(nn.Module):
    """A model of that library, with latents as it makes them: without scale and shift, and nothing sampled."""

    model: Any  # nn.Module, of a class that the library picks

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def encode(self, images: Tensor) -> Tensor:
        """Latents [b, c, h/f, w/f] of images [b, 3, h, w] in [-1, 1]; where there is a distribution, its mode."""
        found = self.model.encode(images)
        latents: Tensor = found.latent_dist.mode() if "latent_dist" in found else found[0]
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Images [b, 3, h, w], about [-1, 1] and not clamped, of latents [b, c, h/f, w/f]."""
        images: Tensor = self.model.decode(latents).sample
        return images


def read_diffusers_card(name: str) -> DiffusersCard:
    """What the model of `diffusers:FOLDER` or `diffusers:org/name[@revision]` is; the Hub's files are fetched.

    Raises NotFoundError if the name leads nowhere or diffusers is not installed, CheckpointError if it is no
    autoencoder of images, or its weights are not safetensors.
    """
    found = _find_model(name)
    latents = _try_out(name, found.skeleton)
    # As JSON has them, so that the card of a store and that of its model are equal.
    config = json.loads(json.dumps(found.config))
    size = found.stored_config.get("sample_size")  # the class's own default says nothing of the weights
    return DiffusersCard(
        encoder_hash=_encoder_hash(_find_weights(name, found), type(found.skeleton), config),
        image_size=size if isinstance(size, int) else _IMAGE_SIZE,
        latent_channels=latents.shape[1],
        downsampling=_TRIAL_SIZE // latents.shape[2],
        spec={"library": "diffusers", "class": type(found.skeleton).__name__, **config},
    )


def load_diffusers_model(name: str, device: str | torch.device) -> DiffusersAutoencoder:
    """The model of that name, float32, in eval mode, frozen. Raises as read_diffusers_card."""
    found = _find_model(name)
    _try_out(name, found.skeleton)
    weights = _find_weights(name, found)
    try:
        model, loading = type(found.skeleton).from_pretrained(
            weights.parent,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,  # else it complains that accelerate is not installed
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{weights} does not fit its {_CONFIG} ({_first_line(error)}); fetch it again") from error
    if missing := loading["missing_keys"]:  # these would be random numbers
        raise CheckpointError(
            f"{weights} lacks {len(missing)} tensors of the model, {min(missing)} first; fetch it again"
        )
    return DiffusersAutoencoder(model).to(device).eval().requires_grad_(False)


@dataclass(frozen=True)
class _Found:
    """A model before its weights."""

    folder: str  # inside the repository: "" or "vae/"
    stored_config: dict[str, Any]  # as the file has it
    skeleton: Any  # the library's model, on the meta device

    @property
    def config(self) -> dict[str, Any]:
        """With the defaults of its class."""
        return {key: value for key, value in self.skeleton.config.items() if not key.startswith("_")}


def _find_model(name: str) -> _Found:
    diffusers = _import_diffusers(name)
    found = _find_file(name, _PIPELINE_FOLDER + _CONFIG, _CONFIG)
    if found is None:
        raise NotFoundError(
            f"{name} holds neither {_CONFIG} nor {_PIPELINE_FOLDER}{_CONFIG}; name what diffusers saved"
        )
    file, path = found
    try:
        config = json.loads(path.read_bytes())
        class_name = str(config["_class_name"])
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is no {_CONFIG} of diffusers: it names no _class_name") from error
    model_class = _model_class(name, class_name, diffusers)
    try:
        with torch.device("meta"):
            skeleton = model_class.from_config(config)
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not describe a model of class {class_name} ({_first_line(error)})"
        ) from error
    return _Found(file.removesuffix(_CONFIG), config, skeleton)


def _model_class(name: str, class_name: str, diffusers: ModuleType) -> Any:
    found = getattr(diffusers, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, diffusers.ModelMixin)):
        raise CheckpointError(
            f"{name} is of class {class_name}, no model that diffusers {diffusers.__version__} has; upgrade diffusers"
        )
    return found


def _import_diffusers(name: str) -> ModuleType:
    try:
        import diffusers  # slow
    except ImportError as error:
        raise NotFoundError(f"{name} needs diffusers, which is not here; pip install 'tcae[diffusers]'") from error
    return diffusers


@torch.no_grad()
def _try_out(name: str, skeleton: nn.Module) -> Tensor:
    """Latents of one image, as shapes alone. Raises CheckpointError if the model is not for images."""
    images, model = torch.empty(1, 3, _TRIAL_SIZE, _TRIAL_SIZE, device="meta"), DiffusersAutoencoder(skeleton)
    try:
        latents = model.encode(images)
        decoded = model.decode(latents)
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        # What a class that takes video, sound or labels makes of an image is its own affair.
        raise CheckpointError(_not_for_images(name, skeleton, _first_line(error))) from error
    if latents.ndim != 4 or latents.shape[2] != latents.shape[3] or decoded.shape != images.shape:
        found = f"{list(images.shape)} becomes {list(latents.shape)} and {list(decoded.shape)}"
        raise CheckpointError(_not_for_images(name, skeleton, found))
    return latents


def _not_for_images(name: str, skeleton: nn.Module, found: str) -> str:
    return (
        f"{name} is of class {type(skeleton).__name__}, which does not encode and decode an image by itself ({found}); "
        f"name an image autoencoder, such as AutoencoderKL or AutoencoderDC"
    )


def _find_weights(name: str, found: _Found) -> Path:
    file = found.folder + _WEIGHTS
    weights = _find_file(name, file)
    if weights is None:
        raise CheckpointError(
            f"{name} holds no {file}; other files of weights, such as .bin, are not read: unpickling runs what is in "
            f"them; save it again with diffusers' save_pretrained"
        )
    return weights[1]


def _find_file(name: str, *files: str) -> tuple[str, Path] | None:
    """The first of the files that the folder or repository has, and where it is now; None if it has none.

    Raises NotFoundError if there is neither, or what is not in the Hub's cache cannot be fetched.
    """
    target, unknown = name.removeprefix(PREFIX), None
    if (folder := Path(target)).is_dir():
        return next(((file, folder / file) for file in files if (folder / file).is_file()), None)
    repository, _, revision = target.partition("@")
    for file in files:
        try:
            return file, Path(hf_hub_download(repository, file, revision=revision or None))
        except LocalEntryNotFoundError as error:  # not in the cache, and the Hub cannot be asked
            unknown = error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise NotFoundError(_not_fetched(name, error)) from error
    if unknown:
        raise NotFoundError(_not_fetched(name, unknown)) from unknown
    return None


def _not_fetched(name: str, error: Exception) -> str:
    return (
        f"{name} is no folder here, and could not be fetched from the Hub ({_first_line(error)}); "
        f"check the name and the network"
    )


def _encoder_hash(weights: Path, model_class: type, config: dict[str, Any]) -> str:
    """SHA-256 (hex) of the tensors `encode` reads, exactly as stored, of the class, and of its config.

    Fields at their defaults are left out: files leave them out, and later versions of the library add to them.
    """
    parameters = inspect.signature(model_class).parameters
    defaults = {key: json.dumps(each.default, default=str) for key, each in parameters.items()}
    shape = {
        key: value
        for key, value in config.items()
        if key not in _NOT_IN_THE_HASH and json.dumps(value) != defaults.get(key)
    }
    digest = hashlib.sha256(json.dumps([PREFIX, model_class.__name__, shape], sort_keys=True).encode())
    try:
        with safe_open(os.fspath(weights), framework="pt") as file:
            for key in sorted(file.keys()):
                if not key.startswith(_DECODER_PARTS):
                    tensor = file.get_tensor(key)
                    digest.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
                    digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    except SafetensorError as error:
        raise CheckpointError(f"{weights} is not a safetensors file ({error}); fetch it again") from error
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
