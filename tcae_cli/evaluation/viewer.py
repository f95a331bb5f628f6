"""Showing images: every rank sees its own batches, every row is shown once, and no batch depends on the ranks.

Axes: b images, n all that are looked at.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tcae_cli.errors import SourceError
from tcae_cli.evaluation.subject import Originals
from tcae_cli.images.batch import BatchRows, ImageBatch
from tcae_cli.images.loader import Reading, load_batches, load_rows
from tcae_cli.images.partition import batches_of_rows
from tcae_cli.images.transform import Transform
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime import distributed
from tcae_cli.runtime.process_group import add_over_ranks

# Takes positions [b], int64, on the CPU, and images [b, 3, h, w], uint8, on the device.
See = Callable[[Tensor, Tensor], None]

_FAILURES_SHOWN = 10


@dataclass(frozen=True)
class Seen:
    """Which images were seen, by all ranks together."""

    good: Tensor  # [n], int64: 1 where the image could be read and is the right one, else 0
    content_hashes: Tensor  # [n], int64: the bits of BLAKE2b of the file's bytes

    @property
    def num_good(self) -> int:
        """How many images were seen."""
        return int(self.good.sum())

    @property
    def num_failed(self) -> int:
        """How many images could not be read, or are not those that a store was made from."""
        return len(self.good) - self.num_good


@dataclass(frozen=True)
class Viewer:
    """Shows images to what measures them."""

    size: int  # pixels, square
    device: torch.device
    batch_size: int
    num_workers: int
    progress: Progress

    def show(self, task: str, originals: Originals, see: See) -> Seen:
        """Show each readable image once, to one rank. Raises SourceError if no image can be used."""
        seen = Seen(*torch.zeros(2, len(originals.rows), dtype=torch.int64))
        rank, world_size = distributed.rank(), distributed.world_size()
        batches = list(_batches(originals.rows, self.batch_size))
        self.progress.start(task, len(originals.rows))
        loading = load_batches(
            originals.source,
            batches[rank::world_size],
            Transform.square(self.size, originals.resize),
            Reading(self.batch_size, self.num_workers, pin_memory=self.device.type == "cuda"),
        )
        with closing(loading) as loaded:
            for number, batch in enumerate(loaded):
                if originals.as_they_are:
                    _refuse_other_sizes(batch, originals, self.size)
                positions = np.searchsorted(originals.rows, batch.todo)
                good = _are_good(batch, originals, positions)
                where = torch.from_numpy(positions)[good]
                if len(where):
                    see(where, batch.images[0][batch.slots()][good].to(self.device, non_blocking=True))
                hashes = torch.from_numpy(batch.content_hashes[batch.slots()].view(np.int64))
                seen.good[where] = 1
                seen.content_hashes[where] = hashes[good]
                together = batches[number * world_size : (number + 1) * world_size]  # what all ranks do in the meantime
                self.progress.advance(sum(len(other.asked()) for other in together), failed=int((~good).sum()))
        add_over_ranks([seen.good, seen.content_hashes])
        if not seen.num_good:
            found = f"none of the {len(originals.rows):,} images can be used"
            raise SourceError(f"{originals.name}: {found}; name others with --data")
        return seen

    def failures(self, originals: Originals, seen: Seen) -> list[dict[str, str]]:
        """Return the first few images that were not seen, and why: they are read once more."""
        found = []
        for position in torch.nonzero(seen.good == 0).flatten()[:_FAILURES_SHOWN].tolist():
            row = int(originals.rows[position])
            _, _, problems = load_rows(originals.source, [row], Transform.square(self.size, originals.resize))
            reason = problems[row].error if row in problems else "not the image that the store was made from"
            found.append({"path": originals.source.key(row), "reason": reason})
        return found


def _batches(rows: np.ndarray, batch_size: int) -> Iterator[BatchRows]:
    """Yield batches of neighbouring rows, with those of them that were asked for."""
    for span in batches_of_rows(0, int(rows[-1]) + 1 if len(rows) else 0, batch_size):
        first, last = np.searchsorted(rows, (span.start, span.stop))
        if first < last:
            yield BatchRows(span, tuple(rows[first:last].tolist()))


def _refuse_other_sizes(batch: ImageBatch, originals: Originals, size: int) -> None:
    for row, slot in zip(batch.todo, batch.slots(), strict=True):
        height, width = batch.original_sizes[slot]
        if row not in batch.failures and (height, width) != (size, size):
            raise SourceError(
                f"{originals.name}: {originals.source.key(row)} is {height}x{width} pixels, others are {size}x{size}; "
                f"generated images are squares of one size and are not resized"
            )


def _are_good(batch: ImageBatch, originals: Originals, positions: np.ndarray) -> Tensor:
    """Return whether each image, [b], bool, could be read and has the bytes that a store was made from."""
    good = np.array([row not in batch.failures for row in batch.todo])
    if originals.content_hashes is not None:
        good &= batch.content_hashes[batch.slots()] == originals.content_hashes[positions]
    return torch.from_numpy(good)
