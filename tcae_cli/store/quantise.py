"""Rounds latents to int8: symmetric, with a scale for each channel, clamped.

Axes: k rows, c channels, h w positions.
"""

import numpy as np

from tcae_cli.store.spec import StoreSpec

LEVELS = 127
FILL_VALUE = -128  # of rows that are not ok; no latent is rounded to it


def channel_scales(latents: np.ndarray, quantile: float) -> np.ndarray:
    """Return the size of one step in each channel, [c], float32: 127 steps reach that quantile of its absolute values.

    latents is [k, c, h, w], float32; quantile is in [0, 1].
    """
    largest = np.quantile(np.abs(latents).transpose(1, 0, 2, 3).reshape(latents.shape[1], -1), quantile, axis=1)
    return np.maximum(largest / LEVELS, np.finfo(np.float32).tiny).astype(np.float32)


def quantise(latents: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 latents rounded to int8, [k, c, h, w], and how many values of each row were clipped, [k]."""
    steps = np.rint(latents / scale[:, None, None])
    clipped = (np.abs(steps) > LEVELS).sum((1, 2, 3))
    return np.clip(steps, -LEVELS, LEVELS).astype(np.int8), clipped


def dequantise(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the float32 latents that int8 values [..., c, h, w] stand for; scale is [c]."""
    return values.astype(np.float32) * scale[:, None, None]


def scale_of(spec: StoreSpec, view: str) -> np.ndarray | None:
    """Return the int8 scales of a view, [c], float32; None if latents are stored as floats."""
    return np.array(spec.quantisation.scale[view], np.float32) if spec.quantisation else None


def as_float(values: np.ndarray, spec: StoreSpec, view: str) -> np.ndarray:
    """Return the float32 latents that stored values of a view, [..., c, h, w], stand for."""
    scale = scale_of(spec, view)
    return values.astype(np.float32) if scale is None else dequantise(values, scale)
