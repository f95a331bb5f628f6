"""Rounds latents to int8: symmetric, with a scale for each channel, clamped.

Axes: k rows, c channels, h w positions.
"""

import numpy as np

from tcae_cli.store.spec import StoreSpec

LEVELS = 127
FILL_VALUE = -128  # of rows that are not ok; no latent is rounded to it


def channel_scales(latents: np.ndarray, quantile: float) -> np.ndarray:
    """Return the size of one step in each channel, [c], float32: that quantile of its absolute values is 127 steps.

    latents: [k, c, h, w], float32.
    """
    largest = np.quantile(np.abs(latents).transpose(1, 0, 2, 3).reshape(latents.shape[1], -1), quantile, axis=1)
    return np.maximum(largest / LEVELS, np.finfo(np.float32).tiny).astype(np.float32)


def quantise(latents: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 values [k, c, h, w] of float32 latents, and of each row how many were beyond the scale, [k]."""
    steps = np.rint(latents / scale[:, None, None])
    clipped = (np.abs(steps) > LEVELS).sum((1, 2, 3))
    return np.clip(steps, -LEVELS, LEVELS).astype(np.int8), clipped


def dequantise(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return float32 latents of int8 values [..., c, h, w]."""
    return values.astype(np.float32) * scale[:, None, None]


def scale_of(spec: StoreSpec, view: str) -> np.ndarray | None:
    """Return the scales of a view, [c], float32; None where latents are stored as they are."""
    return np.array(spec.quantisation.scale[view], np.float32) if spec.quantisation else None


def as_float(values: np.ndarray, spec: StoreSpec, view: str) -> np.ndarray:
    """Return float32 latents of the values that a view stores."""
    scale = scale_of(spec, view)
    return values.astype(np.float32) if scale is None else dequantise(values, scale)
