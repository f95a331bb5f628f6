"""The ways to call an autoencoder of diffusers: on images, on videos of one frame, and on images in [0, 1].

Axes: b batch, h w pixels, c latent channels, f pixels a latent position covers along a side.
"""

import threading
from typing import Any

import torch
from torch import Tensor, nn

_ONE_AT_A_TIME = threading.Lock()  # Wan and Qwen-Image keep the features of a call in the model


class OnImages(nn.Module):
    """A diffusers model with its latents as it makes them: without scale and shift, and without sampling."""

    model: Any  # nn.Module, of a class that diffusers picks
    words = "an image"  # that the model is called on, in messages

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def only_size(self) -> int | None:
        """Return the size of images, in pixels, that the model is bound to; None if it takes others too."""
        return None

    def encode(self, images: Tensor) -> Tensor:
        """Return latents [b, c, h/f, w/f] of images [b, 3, h, w] in [-1, 1]; the mode of a distribution."""
        return self.encode_posterior(images)[0]

    def encode_posterior(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return latents as `encode`, and their standard deviations, alike; None if they have no distribution."""
        found = self.model.encode(images)
        if "latent_dist" not in found:
            return found[0], None
        posterior = found.latent_dist
        return posterior.mode(), getattr(posterior, "std", None)  # Cosmos 1 has a distribution without a deviation

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [b, 3, h, w], about [-1, 1] and not clamped, of latents [b, c, h/f, w/f]."""
        images: Tensor = self.model.decode(latents).sample
        return images


class OnOneFrame(OnImages):
    """A model of videos, [b, 3, t, h, w], whose single latent frame is the latents of an image."""

    words = "a video of one frame"

    def encode_posterior(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return latents as OnImages. Raises ValueError if there is more than one latent frame."""
        with _ONE_AT_A_TIME:
            mean, std = super().encode_posterior(images[:, :, None])
        return _only_frame(mean), None if std is None else _only_frame(std)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images as OnImages. Raises ValueError if there is more than one frame."""
        video = latents[:, :, None]
        with _ONE_AT_A_TIME:
            if self.model.config.get("timestep_conditioning"):
                # LTX: the time at which its pipeline decodes by default, which adds no noise.
                # Source: diffusers, pipelines/ltx/pipeline_ltx.py, decode_timestep.
                return _only_frame(self.model.decode(video, torch.zeros(len(latents), device=latents.device)).sample)
            return _only_frame(self.model.decode(video).sample)


class OnOneFrameEach(OnOneFrame):
    """A model of videos that fails on more than one video at a time, so it takes them one after the other."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.model.enable_slicing()


class OnUnitRange(OnImages):
    """A representation autoencoder (RAE, arXiv:2510.11690), whose images are in [0, 1] and all of one size.

    It would resize images of another size before it encodes them.
    """

    @property
    def only_size(self) -> int | None:
        """Return the size as OnImages."""
        size: int = self.model.decoder_image_size
        return size

    def encode_posterior(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return latents as OnImages."""
        return super().encode_posterior((images + 1) / 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images as OnImages."""
        return super().decode(latents) * 2 - 1


# By the name of the model's class; a way that fails on a trial gives place to the next.
_OF_CLASSES: dict[str, tuple[type[OnImages], ...]] = {
    "AutoencoderKLHunyuanVideo15": (OnOneFrameEach,),
    "AutoencoderRAE": (OnUnitRange,),
}


def ways_to_call(model: nn.Module) -> tuple[type[OnImages], ...]:
    """Return the ways to call a model that may suit it, the most likely first."""
    return _OF_CLASSES.get(type(model).__name__, (OnImages, OnOneFrame))


def _only_frame(video: Tensor) -> Tensor:
    """Return the frame [b, c, h, w] of a video [b, c, 1, h, w]."""
    if video.ndim != 5 or video.shape[2] != 1:
        raise ValueError(f"one frame becomes {list(video.shape)}")
    return video[:, :, 0]
