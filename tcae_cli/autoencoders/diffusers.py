"""The family of autoencoders of the diffusers library, from a folder or the Hugging Face Hub.

Axes: b batch, h w pixels, c latent channels, f pixels a latent position covers along a side.
"""

import hashlib
import inspect
import json
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tcae_cli.autoencoders.families import ModelCard
from tcae_cli.errors import CheckpointError, NotFoundError
from tcae_cli.runtime.hub_models import fetch_model_file

_PREFIX = "diffusers:"
_CONFIG, _WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
_PIPELINE_FOLDER = "vae/"  # where a whole pipeline keeps its autoencoder
_IMAGE_SIZE = 256  # pixels, of a model that does not say
_TRIAL_SIZE = 256  # pixels; every downsampling in use divides it
_DECODER_PARTS = ("decoder.", "post_quant_conv.")  # prefixes of the names of tensors that encode does not read
_NOT_IN_THE_HASH = {"sample_size"}  # any size runs through the same tensors


class DiffusersAutoencoder(nn.Module):
    """A diffusers model with its latents as it makes them: without scale and shift, and without sampling."""

    model: Any  # nn.Module, of a class that diffusers picks

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def encode(self, images: Tensor) -> Tensor:
        """Return latents [b, c, h/f, w/f] of images [b, 3, h, w] in [-1, 1]; the mode of a distribution."""
        found = self.model.encode(images)
        latents: Tensor = found.latent_dist.mode() if "latent_dist" in found else found[0]
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [b, 3, h, w], about [-1, 1] and not clamped, of latents [b, c, h/f, w/f]."""
        images: Tensor = self.model.decode(latents).sample
        return images


class DiffusersModel:
    """The model of `diffusers:FOLDER` or `diffusers:org/name[@revision]`."""

    def __init__(self, name: str) -> None:
        """Fetch what is not in the Hub's cache.

        Raises NotFoundError if the name leads nowhere or diffusers is not installed, CheckpointError if the model is
        not an autoencoder of images, or its weights are not safetensors.
        """
        self._name = name
        diffusers = _import_diffusers(name)
        folder, path = _find_config(name)
        self._stored_config, class_name = _read_config(path)
        model_class = getattr(diffusers, class_name, None)
        if not (inspect.isclass(model_class) and issubclass(model_class, diffusers.ModelMixin)):
            raise CheckpointError(
                f"{name} is of class {class_name}, which is not a model of diffusers {diffusers.__version__}; "
                f"upgrade diffusers"
            )
        self._skeleton = _build_skeleton(model_class, self._stored_config, path)
        self._trial_latents = _try_out(name, self._skeleton)
        self._weights = _find_weights(name, folder)

    def card(self) -> ModelCard:
        """Return the card. Its spec has the library, the class and its config; generators take (raw - shift) * scale.

        Raises CheckpointError if the weights are damaged.
        """
        filled_in = {key: value for key, value in self._skeleton.config.items() if not key.startswith("_")}
        # As JSON has them, so that the card of a store and that of its model are equal.
        config = json.loads(json.dumps(filled_in))
        size = self._stored_config.get("sample_size")  # the class's own default says nothing of the weights
        return ModelCard(
            name=self._name,
            encoder_hash=_encoder_hash(self._weights, type(self._skeleton), config),
            image_size=size if isinstance(size, int) else _IMAGE_SIZE,
            latent_channels=self._trial_latents.shape[1],
            downsampling=_TRIAL_SIZE // self._trial_latents.shape[2],
            spec={"library": "diffusers", "class": type(self._skeleton).__name__, **config},
            recipe={},
        )

    def load(self, device: str | torch.device) -> DiffusersAutoencoder:
        """Return the model on the device: frozen, float32, in eval mode. Raises CheckpointError for misfits."""
        try:
            model, loading = type(self._skeleton).from_pretrained(
                self._weights.parent,
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=False,  # True warns where accelerate is not installed
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{self._weights} does not fit its {_CONFIG} ({_first_line(error)}); fetch it again"
            ) from error
        if missing := loading["missing_keys"]:  # diffusers would leave these at random numbers
            raise CheckpointError(
                f"{self._weights} lacks {len(missing)} tensors of the model, {min(missing)} first; fetch it again"
            )
        return DiffusersAutoencoder(model).to(device).eval().requires_grad_(False)


def _import_diffusers(name: str) -> Any:
    try:
        import diffusers  # slow
    except ImportError as error:
        raise NotFoundError(f"{name} needs diffusers, which is not installed; pip install 'tcae[diffusers]'") from error
    return diffusers


def _find_config(name: str) -> tuple[str, Path]:
    """Return the folder inside the repository, "" or "vae/", and the path of its config."""
    found = _find_file(name, _PIPELINE_FOLDER + _CONFIG, _CONFIG)
    if found is None:
        raise NotFoundError(
            f"{name} holds neither {_CONFIG} nor {_PIPELINE_FOLDER}{_CONFIG}; name a model that diffusers has saved"
        )
    file, path = found
    return file.removesuffix(_CONFIG), path


def _read_config(path: Path) -> tuple[dict[str, Any], str]:
    """Return the config as the file has it, and the name of the model's class."""
    try:
        config = json.loads(path.read_bytes())
        return config, str(config["_class_name"])
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is not a {_CONFIG} of diffusers: it names no _class_name") from error


def _build_skeleton(model_class: Any, config: dict[str, Any], path: Path) -> Any:
    """Return the model on the meta device, which holds shapes and no values."""
    try:
        with torch.device("meta"):
            return model_class.from_config(config)
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not describe a model of class {model_class.__name__} ({_first_line(error)})"
        ) from error


@torch.no_grad()
def _try_out(name: str, skeleton: nn.Module) -> Tensor:
    """Return the latents of one image, as shapes alone. Raises CheckpointError if the model is not for images."""
    images = torch.empty(1, 3, _TRIAL_SIZE, _TRIAL_SIZE, device="meta")
    model = DiffusersAutoencoder(skeleton)
    try:
        latents = model.encode(images)
        decoded = model.decode(latents)
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        # A class that takes video, sound or labels may fail on an image in any way.
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


def _find_weights(name: str, folder: str) -> Path:
    found = _find_file(name, folder + _WEIGHTS)
    if found is None:
        raise CheckpointError(
            f"{name} holds no {folder}{_WEIGHTS}; other weight files, such as .bin, are not read, because unpickling "
            f"can run any code; save it again with diffusers' save_pretrained"
        )
    return found[1]


def _find_file(name: str, *files: str) -> tuple[str, Path] | None:
    """Return the first of the files that the folder or repository has, and its path; None if it has none of them.

    Raises NotFoundError if there is neither, or a file that is not in the Hub's cache cannot be fetched.
    """
    target = name.removeprefix(_PREFIX)
    if (folder := Path(target)).is_dir():
        return next(((file, folder / file) for file in files if (folder / file).is_file()), None)
    repository, _, revision = target.partition("@")
    unreachable = None
    for file in files:
        try:
            return file, fetch_model_file(repository, file, revision or None)
        except LocalEntryNotFoundError as error:  # not in the cache, and the Hub cannot be asked
            unreachable = error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise NotFoundError(_not_fetched(name, error)) from error
    if unreachable:
        raise NotFoundError(_not_fetched(name, unreachable)) from unreachable
    return None


def _not_fetched(name: str, error: Exception) -> str:
    return (
        f"{name} is not a local folder and could not be fetched from the Hub ({_first_line(error)}); "
        f"check the name and the network"
    )


def _encoder_hash(weights: Path, model_class: type, config: dict[str, Any]) -> str:
    """Return the SHA-256 (hex) of the tensors `encode` reads, exactly as stored, of the class, and of its config.

    Fields at their defaults are omitted: files omit them, and later versions of the library add to them.
    """
    parameters = inspect.signature(model_class).parameters
    defaults = {key: json.dumps(each.default, default=str) for key, each in parameters.items()}
    shape = {
        key: value
        for key, value in config.items()
        if key not in _NOT_IN_THE_HASH and json.dumps(value) != defaults.get(key)
    }
    digest = hashlib.sha256(json.dumps([_PREFIX, model_class.__name__, shape], sort_keys=True).encode())
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
