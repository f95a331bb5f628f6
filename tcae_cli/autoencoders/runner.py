"""The one place that puts an autoencoder on a device at a precision: images in, latents out, and back.

Axes: b batch, c latent channels, h w pixels or latent positions, d width of the patch tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tcae_cli.autoencoders.by_name import load_autoencoder
from tcae_cli.autoencoders.compiled import compiled_copy
from tcae_cli.autoencoders.families import Autoencoder, WithPosterior
from tcae_cli.errors import TcaeError
from tcae_cli.images.transform import to_float, to_uint8
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.choices import Precision
from tcae_cli.runtime.device import autocast, exact_float32, memory_errors


@dataclass(frozen=True)
class Runner:
    """An autoencoder on a device that computes at one precision, without gradients.

    "fp32" is IEEE float32, on a GPU too, where TF32 is switched off; "bf16" is autocast to bfloat16 with float32
    weights. Images are uint8, latents are raw float32, whatever the precision is. Running out of device memory raises
    a DeviceMemoryError. Several threads may use one runner.

        runner = load_runner("tcae-tiny", device, "bf16")
        latents = runner.encode(images)
        decoded = runner.at("fp32").decode(latents)

    A model in memory, such as one in training, is used with Runner(name, model, device, precision).
    """

    name: str  # in messages
    model: Autoencoder  # on the device
    device: torch.device
    precision: Precision

    def at(self, precision: Precision) -> "Runner":
        """Return a runner of the same model, not a copy of it, at another precision."""
        return replace(self, precision=precision)

    def compiled(self) -> "Runner":
        """Return a runner of the same weights whose encoder's transformer blocks are compiled; of our own models only.

        A shape of images is compiled when it is first encoded, which takes from seconds to a minute.
        """
        assert isinstance(self.model, TCAE)
        return replace(self, model=compiled_copy(self.model))

    def encode(self, images: Tensor) -> Tensor:
        """Return latents [b, c, h/f, w/f], float32, on the device, of images [b, 3, h, w], uint8, on any device.

        Images in pinned memory are copied asynchronously.
        """
        with self.computing(len(images)):
            return self.model.encode(self._pixels(images)).float()

    def encode_posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latents of `encode` and their standard deviations, alike, of a model with a posterior."""
        assert isinstance(self.model, WithPosterior)
        with self.computing(len(images)):
            mean, std = self.model.encode_posterior(self._pixels(images))
            assert std is not None
            return mean.float(), std.float()

    def encode_with_tokens(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the latents of `encode` and the mean patch token before the bottleneck of each image, [b, d].

        Only models of our own have such tokens; for others the second is None.
        """
        if not isinstance(self.model, TCAE):
            return self.encode(images), None
        with self.computing(len(images)):
            latents, tokens = self.model.encode_with_tokens(self._pixels(images))
            return latents.float(), tokens.float().mean(dim=(1, 2))

    def decode(self, latents: Tensor, *, refuse_non_finite: bool = False) -> Tensor:
        """Return images [b, 3, h, w], uint8, on the device, of latents [b, c, h/f, w/f], float32, on any device.

        Raises TcaeError if refuse_non_finite is set and the model gives a value that is infinite or not a number,
        which would otherwise become an arbitrary byte.
        """
        with self.computing(len(latents)):
            images = self.model.decode(latents.to(self.device))
            if refuse_non_finite and not images.isfinite().all():
                raise TcaeError(
                    f"{self.name} decodes to values that are not finite; try --precision fp32, or use another model"
                )
            return to_uint8(images)

    @contextmanager
    def computing(self, batch_size: int) -> Iterator[None]:
        """Give what runs inside, such as `model.encode` of float images, the runner's precision and its error message.

        batch_size: of what runs inside, to be named when it does not fit into the device's memory.
        """
        with memory_errors(batch_size), torch.no_grad(), exact_float32(), autocast(self.device, self.precision):
            yield

    def _pixels(self, images: Tensor) -> Tensor:
        return to_float(images.to(self.device, non_blocking=True))


def load_runner(name: str, device: torch.device, precision: Precision) -> Runner:
    """Load the model of that name onto a device. Raises as load_autoencoder."""
    return Runner(name, load_autoencoder(name, device), device, precision)
