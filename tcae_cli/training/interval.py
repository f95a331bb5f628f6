"""The figures of a training run between two lines of its log."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from tcae_cli.losses.registry import TERMS
from tcae_cli.runtime.distributed import world_size
from tcae_cli.runtime.process_group import mean_over_ranks, sum_over_ranks
from tcae_cli.training.views.crops import TrainingBatch


class Interval:
    """Counts images, failures and the time spent waiting for the loader since the last line."""

    def __init__(self, peak_images_per_s: float | None) -> None:
        """peak_images_per_s: the rate of one device at its peak, against which MFU is measured; None if unknown."""
        self._peak_images_per_s = peak_images_per_s
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._waited_s = 0.0
        self._images = 0
        self._failed = 0

    def next(self, batches: Iterator[TrainingBatch]) -> TrainingBatch:
        """Return the next batch, and count the time spent waiting for it."""
        asked_at = time.perf_counter()
        batch = next(batches)
        self._waited_s += time.perf_counter() - asked_at
        self._images += len(batch.images)
        self._failed += batch.num_failed
        return batch

    def figures(self, terms: dict[str, Tensor], lr: float) -> dict[str, float]:
        """Return the log's line, means and sums over every rank, and start counting anew; every rank must call this."""
        means = mean_over_ranks(torch.stack([term.float() for term in terms.values()])).tolist()
        elapsed_s = (
            time.perf_counter() - self._since
        )  # after the device has finished, which reading the means waits for
        images_per_s = self._images / elapsed_s  # of this rank
        line = dict(zip(terms, means, strict=True)) | {
            "lr": lr,
            "images_per_s": images_per_s * world_size(),
            "loader_wait_share": self._waited_s / elapsed_s,
            "num_failed": sum_over_ranks(self._failed),
        }
        if self._peak_images_per_s:
            line["mfu"] = images_per_s / self._peak_images_per_s
        self._reset()
        return line


def note(figures: dict[str, float]) -> str:
    """Return the text of the progress line from the last line of the log."""
    shown = {
        name: f"{figures[name]:.4g}"
        for name in ("loss", *TERMS, "class_token", "masked_patch", "generator")
        if name in figures
    }
    words = [f"{name} {value}" for name, value in shown.items()]
    if "images_per_s" in figures:
        words.append(f"{figures['images_per_s']:.0f} images/s")
        words.append(f"waiting {figures['loader_wait_share']:.0%}")
    if "mfu" in figures:
        words.append(f"MFU {figures['mfu']:.0%}")
    return ", ".join(words)
