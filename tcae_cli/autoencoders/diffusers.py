"""The family of autoencoders of the diffusers library, from a folder or the Hugging Face Hub."""

import importlib.util
import inspect
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tcae_cli.autoencoders.diffusers_calls import OnImages, ways_to_call
from tcae_cli.autoencoders.diffusers_files import CONFIG, encoder_hash, find_config, find_weights, read_config
from tcae_cli.autoencoders.diffusers_generators import generator_input
from tcae_cli.autoencoders.families import ModelCard
from tcae_cli.autoencoders.model_files import first_line, read_tensor
from tcae_cli.autoencoders.published import published_in_diffusers
from tcae_cli.errors import CheckpointError, NotFoundError

_IMAGE_SIZE = 256  # pixels, of a model that does not say
_TRIAL_SIZE = 256  # pixels; every downsampling in use divides it
_NEED_TRANSFORMERS = {"AutoencoderRAE"}  # classes whose encoders are models of transformers


class DiffusersModel:
    """The model of `diffusers:FOLDER` or `diffusers:org/name[@revision]`."""

    about = "autoencoders of diffusers: diffusers:FOLDER or diffusers:org/name[@revision]"
    published = staticmethod(published_in_diffusers)

    def __init__(self, name: str) -> None:
        """Fetch what is not in the Hub's cache.

        Raises NotFoundError if the name leads nowhere or diffusers is not installed, CheckpointError if the model is
        not an autoencoder of images, or its weights are not safetensors.
        """
        self._name = name
        diffusers = _import_diffusers(name)
        folder, path = find_config(name)
        self._stored_config, class_name = read_config(path)
        model_class = getattr(diffusers, class_name, None)
        if not (inspect.isclass(model_class) and issubclass(model_class, diffusers.ModelMixin)):
            raise CheckpointError(
                f"{name} is of class {class_name}, which is not a model of diffusers {diffusers.__version__}; "
                f"upgrade diffusers"
            )
        _refuse_without_transformers(name, class_name)
        tried_out = _build_and_try_out(name, class_name, json.dumps(self._stored_config), path)
        self._skeleton, self._call, self._trial_latents, self._has_posterior = tried_out
        self._weights = find_weights(name, folder)

    def card(self) -> ModelCard:
        """Return the card. Its spec has the library, the class and its config.

        Raises CheckpointError if the weights are damaged.
        """
        filled_in = {key: value for key, value in self._skeleton.config.items() if not key.startswith("_")}
        # As JSON has them, so that the card of a store and that of its model are equal.
        config = json.loads(json.dumps(filled_in))
        size = self._stored_config.get("sample_size")  # the class's own default says nothing of the weights
        only_size = self._call.only_size
        class_name = type(self._skeleton).__name__
        return ModelCard(
            name=self._name,
            encoder_hash=encoder_hash(self._weights, type(self._skeleton), config),
            image_size=only_size or (size if isinstance(size, int) else _IMAGE_SIZE),
            latent_channels=self._trial_latents.shape[1],
            downsampling=(only_size or _TRIAL_SIZE) // self._trial_latents.shape[2],
            spec={"library": "diffusers", "class": class_name, **config},
            recipe={},
            num_parameters=sum(each.numel() for each in self._skeleton.parameters()),
            generator=generator_input(class_name, config, lambda key: read_tensor(self._weights, key)),
            # A file that says so knows it of its weights, as that of SDXL's does; the class's default is true.
            overflows_in_half=self._stored_config.get("force_upcast") is True,
            is_of_one_size=only_size is not None,
            has_posterior=self._has_posterior,
        )

    def load(self, device: str | torch.device) -> OnImages:
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
                f"{self._weights} does not fit its {CONFIG} ({first_line(error)}); fetch it again"
            ) from error
        if missing := loading["missing_keys"]:  # diffusers would leave these at random numbers
            raise CheckpointError(
                f"{self._weights} lacks {len(missing)} tensors of the model, {min(missing)} first; fetch it again"
            )
        return type(self._call)(model).to(device).eval().requires_grad_(False)


def _import_diffusers(name: str) -> Any:
    try:
        import diffusers  # slow
    except ImportError as error:
        raise NotFoundError(f"{name} needs diffusers, which is not installed; pip install 'tcae[diffusers]'") from error
    return diffusers


def _refuse_without_transformers(name: str, class_name: str) -> None:
    if class_name in _NEED_TRANSFORMERS and importlib.util.find_spec("transformers") is None:
        raise NotFoundError(
            f"{name} is of class {class_name}, whose encoder needs transformers, which is not installed; "
            f"pip install 'tcae[rae]'"
        )


@cache
def _build_and_try_out(name: str, class_name: str, config: str, path: Path) -> tuple[Any, OnImages, Tensor, bool]:
    """Return the model without values and what _try_out finds, once: a command asks for card and model, each anew."""
    skeleton = _build_skeleton(getattr(_import_diffusers(name), class_name), json.loads(config), path)
    return skeleton, *_try_out(name, skeleton)


def _build_skeleton(model_class: Any, config: dict[str, Any], path: Path) -> Any:
    """Return the model on the meta device, which holds shapes and no values."""
    try:
        with torch.device("meta"):
            model = model_class.from_config(config)
        return model.to("meta")  # Cosmos copies constants to the CPU
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not describe a model of class {model_class.__name__} ({first_line(error)})"
        ) from error


def _try_out(name: str, skeleton: Any) -> tuple[OnImages, Tensor, bool]:
    """Return the model with a way to call it, the latents of two images, as shapes alone, and if they have deviations.

    Raises CheckpointError if the model is not for images.
    """
    failures = []
    for way in ways_to_call(skeleton):
        model = way(skeleton)
        try:
            return model, *_encode_and_decode(model)
        except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            # A class that takes sound or labels may fail on an image in any way.
            failures.append(f"{way.words}: {first_line(error)}")
    raise CheckpointError(
        f"{name} is of class {type(skeleton).__name__}, which does not encode and decode an image by itself "
        f"({'; '.join(failures)}); name an image autoencoder, such as AutoencoderKL or AutoencoderDC"
    )


@torch.no_grad()
def _encode_and_decode(model: OnImages) -> tuple[Tensor, bool]:
    """Return the latents of two images, and whether they have deviations.

    Raises ValueError if these are no squares, or do not become images.
    """
    size = model.only_size or _TRIAL_SIZE
    images = torch.empty(2, 3, size, size, device="meta")
    latents, std = model.encode_posterior(images)
    decoded = model.decode(latents)
    if latents.ndim != 4 or latents.shape[2] != latents.shape[3] or decoded.shape != images.shape:
        raise ValueError(f"{list(images.shape)} becomes {list(latents.shape)} and {list(decoded.shape)}")
    return latents, std is not None and std.shape == latents.shape
