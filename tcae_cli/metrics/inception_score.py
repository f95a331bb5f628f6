"""The Inception Score: how sure a classifier is of each image, and how evenly it uses its classes, from sums.

Axes: b images, k classes, s splits.
"""

import numpy as np
import torch
from torch import Tensor

_SEED = 2020


class InceptionScoreSums:
    """Sums that give the score: on the CPU, float64, whatever device the logits are on.

    The rows fall into splits as torch-fidelity shuffles and cuts them, so a row's position decides its split, and
    not when or on which rank it is added. Source: Salimans et al. (arXiv:1606.03498), section 4; the shuffle with seed
    2020 and the 10 splits are those of github.com/toshas/torch-fidelity.
    """

    def __init__(self, num_rows: int, num_classes: int = 1008, num_splits: int = 10) -> None:
        order = np.random.RandomState(_SEED).permutation(num_rows)
        cuts = [split * num_rows // num_splits for split in range(1, num_splits)]
        self._splits = torch.empty(num_rows, dtype=torch.int64)  # of each row
        for split, rows in enumerate(np.split(order, cuts)):
            self._splits[torch.from_numpy(rows)] = split
        self._counts = torch.zeros(num_splits, dtype=torch.float64)
        self._probabilities = torch.zeros(num_splits, num_classes, dtype=torch.float64)
        self._negentropies = torch.zeros(num_splits, dtype=torch.float64)  # sum of p log p

    def add(self, positions: Tensor, logits: Tensor) -> None:
        """Count images. positions: [b], int64, each below num_rows and added once; logits: [b, k], float."""
        splits = self._splits[positions.cpu()]
        logits = logits.double().cpu()
        p = logits.softmax(dim=1)
        self._counts.index_add_(0, splits, torch.ones(len(splits), dtype=torch.float64))
        self._probabilities.index_add_(0, splits, p)
        self._negentropies.index_add_(0, splits, (p * logits.log_softmax(dim=1)).sum(dim=1))

    def tensors(self) -> list[Tensor]:
        """Return all tensors; those of several ranks add up."""
        return [self._counts, self._probabilities, self._negentropies]

    def score(self) -> float:
        """Return exp of the mean divergence of an image's classes from all images', mean over splits; 1 to k.

        A split without rows, as there is where rows are fewer than splits, is omitted. Raises ValueError if all are.
        """
        if not self._counts.any():
            raise ValueError("an Inception Score needs an image, found none")
        filled = self._counts > 0
        counts = self._counts[filled]
        q = self._probabilities[filled] / counts[:, None]
        divergences = self._negentropies[filled] / counts + torch.special.entr(q).sum(dim=1)
        return float(divergences.exp().mean())
