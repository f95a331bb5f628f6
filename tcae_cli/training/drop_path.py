"""Which branches of which blocks an image skips, drawn from the seed and the sample's number alone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_STREAM = 7  # keeps these draws apart from others of the same sample


def draw_keep(seed: int, samples: Sequence[int], num_views: int, num_blocks: int, rate: float) -> Tensor:
    """Factors [b, views, blocks, 2], float32, of the blocks' two branches: 0, or 1 / the chance of being kept.

    rate: chance of being dropped in the last block; it falls linearly to 0 in the first (arXiv:1603.09382).
    """
    rates = np.linspace(0.0, rate, num_blocks)[None, :, None]
    shape = num_views, num_blocks, 2
    draws = [np.random.default_rng((seed, _STREAM, sample)).random(shape) for sample in samples]
    return torch.from_numpy(((np.stack(draws) >= rates) / (1 - rates)).astype(np.float32))
