"""Defines the values that a model's own generators take in place of its raw latents, and the way back.

Axes: c latent channels, h w latent positions, p positions along a side of a patch.
"""

from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveInt

from tcae_cli.errors import UsageError

Latents = TypeVar("Latents")  # np.ndarray or torch.Tensor

_SMALLEST_STD = 1e-6  # channels that do not vary are divided by this


class GeneratorInput(BaseModel):
    """Generators take (latents - shift) * scale, of one shift and scale or of one for each channel.

    With `patch` above 1, the positions of each patch of patch x patch become channels of one position first, as
    diffusers' Flux2Pipeline._patchify_latents arranges them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shift: list[FiniteFloat]  # [1] or [c * patch * patch]
    scale: list[FiniteFloat]
    patch: PositiveInt = 1

    @classmethod
    def of_statistics(cls, mean: list[float], std: list[float], scale: float = 1.0, patch: int = 1) -> "GeneratorInput":
        """Return what takes (latents - mean) / std * scale."""
        return cls(shift=mean, scale=[scale / max(each, _SMALLEST_STD) for each in std], patch=patch)

    @property
    def words(self) -> str:
        """Return the formula; numbers of single channels are omitted."""
        latents = "latents" if self.patch == 1 else f"patches of {self.patch} x {self.patch} latents"
        if len(self.shift) > 1 or len(self.scale) > 1:
            return f"({latents} - shift) x scale of each channel"
        shift, scale = self.shift[0], self.scale[0]
        if not shift and scale == 1:
            return f"{latents} as they are"
        shifted = f"({latents} {'-' if shift > 0 else '+'} {abs(shift):g})" if shift else latents
        return f"{shifted} x {scale:g}" if scale != 1 else shifted

    def shape(self, raw: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape that latents [c, h, w] become. Raises UsageError if patches do not divide them."""
        channels, height, width = raw
        if height % self.patch or width % self.patch:
            raise UsageError(
                f"latents of {height} x {width} positions have no patches of {self.patch} x {self.patch}, which the "
                f"model's generators take; encode images at another --size"
            )
        return channels * self.patch**2, height // self.patch, width // self.patch

    def mean_and_std(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the shift and 1 / scale, float32, [1, 1, 1] or [c, 1, 1] each, of patches."""
        shift, scale = (np.array(values)[:, None, None] for values in (self.shift, self.scale))
        return shift.astype(np.float32), (1 / scale).astype(np.float32)

    def patches(self, latents: Latents) -> Latents:
        """Return latents [..., c, h, w] as patches [..., c * p * p, h / p, w / p], unscaled; array or tensor."""
        if self.patch == 1:
            return latents
        values: Any = latents
        *batch, channels, height, width = values.shape
        parts = values.reshape(*batch, channels, height // self.patch, self.patch, width // self.patch, self.patch)
        parts = parts.swapaxes(-4, -3).swapaxes(-2, -1).swapaxes(-3, -2)  # to ..., c, p, p, h / p, w / p
        arranged: Latents = parts.reshape(*batch, *self.shape((channels, height, width)))
        return arranged

    def positions(self, patches: Latents) -> Latents:
        """Return the latents [..., c, h, w] of a result of `patches`."""
        if self.patch == 1:
            return patches
        values: Any = patches
        *batch, channels, height, width = values.shape
        parts = values.reshape(*batch, channels // self.patch**2, self.patch, self.patch, height, width)
        parts = parts.swapaxes(-3, -2).swapaxes(-2, -1).swapaxes(-4, -3)  # to ..., c, h / p, p, w / p, p
        arranged: Latents = parts.reshape(*batch, -1, height * self.patch, width * self.patch)
        return arranged
