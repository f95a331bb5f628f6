"""BucketBatchSampler draws batches of samples of one shape, as many on every rank."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch.distributed as dist
from torch.utils.data import Sampler

from tcae_cli.errors import UsageError
from tcae_cli.runtime import distributed


class SamplesOfBucket(NamedTuple):
    """The samples of a dataset that have one shape."""

    samples: range
    height: int  # of their images, in pixels
    width: int


class Bucketed(Protocol):
    """A dataset whose samples may have several shapes."""

    @property
    def buckets(self) -> Sequence[SamplesOfBucket]:
        """The samples of each shape: one after another, together all samples."""


def place_among_ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return a trainer's rank and number of ranks: as given, or those of torch.distributed or else of the launch."""
    if dist.is_initialized():
        return dist.get_rank() if rank is None else rank, dist.get_world_size() if world_size is None else world_size
    return distributed.rank() if rank is None else rank, distributed.world_size() if world_size is None else world_size


Step = list[np.ndarray]  # the samples of each rank's batch, int64


class BucketBatchSampler(Sampler[list[int]]):
    """BucketBatchSampler yields the batches of a rank, as lists of the indices of samples of one bucket.

    Use it as DataLoader(dataset, batch_sampler=sampler) or dataset.batches(sampler), and call set_epoch before each
    epoch, as with DistributedSampler. Every rank yields the same number of batches, and no sample comes twice in an
    epoch. With same_bucket the ranks' batches of a step are of one bucket, but for the few steps of what is left of
    the buckets, where fewer samples than ranks, or fewer full batches than ranks, are left of each.

    A batch has `batch_size` samples or, with max_pixels, fewer where their images would have more pixels than that
    together, but at least one. With drop_last all batches of a bucket have that size, and the samples that are left of
    it are dropped, others in each epoch: `dropped` returns them. Without, they come in smaller batches. Then samples
    are dropped only where batches of one sample cannot be shared evenly: fewer than there are ranks.

    `rank` and `world_size` default to those of torch.distributed or, before it is initialised, of the launch. Raises
    UsageError if a number is out of its range, or if there is less than one batch for each rank.
    """

    def __init__(
        self,
        dataset: Bucketed,
        batch_size: int,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = True,
        max_pixels: int | None = None,
        same_bucket: bool = True,
    ) -> None:
        self.batch_size, self.seed, self.drop_last = batch_size, seed, drop_last
        self.max_pixels, self.same_bucket = max_pixels, same_bucket
        self.rank, self.world_size = place_among_ranks(rank, world_size)
        self._buckets = list(dataset.buckets)
        self._refuse_out_of_range()
        self._epoch, self._num_given = 0, 0
        self._resumed_epoch: int | None = None
        self._steps: tuple[int, list[Step]] | None = None  # of an epoch
        if not len(self):
            raise UsageError(
                f"{self._num_samples} samples are less than a batch for each of {self.world_size} ranks; use a smaller "
                f"batch_size{', or drop_last=False' if drop_last else ''}"
            )

    def __len__(self) -> int:
        """Return the number of batches of this rank in an epoch, which is the same in every epoch."""
        return len(self._steps_of_epoch())

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of this rank in the epoch, or the rest of them if it was resumed."""
        if self._epoch != self._resumed_epoch:
            self._num_given = 0
        self._resumed_epoch = None
        steps = self._steps_of_epoch()
        while self._num_given < len(steps):
            self._num_given += 1
            yield steps[self._num_given - 1][self.rank].tolist()

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch, from 0, whose batches are drawn next."""
        if epoch != self._epoch:
            self._num_given, self._resumed_epoch = 0, None
        self._epoch = epoch

    @property
    def num_dropped(self) -> int:
        """Return how many samples the batches of all ranks together leave out in an epoch."""
        return self._num_samples - sum(len(batch) for step in self._steps_of_epoch() for batch in step)

    def dropped(self) -> np.ndarray:
        """Return the samples that the batches of all ranks together leave out in this epoch, ascending, int64."""
        given = [batch for step in self._steps_of_epoch() for batch in step]
        return np.setdiff1d(np.arange(self._num_samples), np.concatenate(given))

    def state_dict(self, num_given: int | None = None) -> dict[str, Any]:
        """Return the position in the epoch, for load_state_dict.

        num_given: the number of batches that training has taken, which it must say where a DataLoader or `batches`
        draws ahead; by default those that were drawn.
        """
        if num_given is not None and not 0 <= num_given <= len(self):
            raise UsageError(f"num_given is {num_given}, and an epoch has {len(self)} batches")
        taken = self._num_given if num_given is None else num_given
        return {"epoch": self._epoch, "num_given": taken} | self._identity

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume once, from the position in a result of state_dict.

        Raises UsageError if the state is incomplete, or if samples, batches, seed or ranks differ from it.
        """
        if missing := [name for name in ("epoch", "num_given", *self._identity) if name not in state]:
            raise UsageError(f"the state has no {missing[0]}; pass the result of a BucketBatchSampler's state_dict")
        for name, value in self._identity.items():
            if state[name] != value:
                raise UsageError(f"the sampler's {name} was {state[name]} and is {value}; resume with the first")
        self._epoch = self._resumed_epoch = state["epoch"]
        self._num_given = state["num_given"]

    @property
    def _identity(self) -> dict[str, Any]:
        return {
            "buckets": [[len(bucket.samples), bucket.height, bucket.width] for bucket in self._buckets],
            "batch_size": self.batch_size,
            "seed": self.seed,
            "world_size": self.world_size,
            "drop_last": self.drop_last,
            "max_pixels": self.max_pixels,
            "same_bucket": self.same_bucket,
        }

    @property
    def _num_samples(self) -> int:
        return sum(len(bucket.samples) for bucket in self._buckets)

    def _refuse_out_of_range(self) -> None:
        for name, least in (("batch_size", 1), ("max_pixels", 1), ("world_size", 1), ("seed", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise UsageError(f"{name} is {value}; use {least} or more")
        if not 0 <= self.rank < self.world_size:
            raise UsageError(f"rank is {self.rank}; those of {self.world_size} ranks are 0 to {self.world_size - 1}")

    def _steps_of_epoch(self) -> list[Step]:
        """Return the batches of all ranks in this epoch, step by step."""
        if self._steps is None or self._steps[0] != self._epoch:
            self._steps = self._epoch, self._draw(np.random.default_rng([self.seed, self._epoch]))
        return self._steps[1]

    def _draw(self, random: np.random.Generator) -> list[Step]:
        steps: list[Step] = []
        left: list[np.ndarray] = []  # batches that no step of their own bucket takes
        for bucket in self._buckets:
            samples = bucket.samples.start + random.permutation(len(bucket.samples))
            own, rest = self._cut(samples, self._size_of_batch(bucket))
            steps += own
            left += rest
        if self.drop_last and steps and len(left) % self.world_size:
            # Of the batches that are left, some must be dropped: with a step among them, not always the same buckets'.
            left += steps.pop(random.integers(len(steps)))
        left = [left[number] for number in random.permutation(len(left))]
        steps += self._steps_of_rest(left, steps)
        return [steps[number] for number in random.permutation(len(steps))]

    def _size_of_batch(self, bucket: SamplesOfBucket) -> int:
        if self.max_pixels is None:
            return self.batch_size
        return min(self.batch_size, max(1, self.max_pixels // (bucket.height * bucket.width)))

    def _cut(self, samples: np.ndarray, size: int) -> tuple[list[Step], list[np.ndarray]]:
        """Return the steps that the samples of a bucket fill for all ranks, and batches of what is left."""
        if not self.same_bucket:
            return [], self._batches_of(samples, size)
        whole = len(samples) // (self.world_size * size) * self.world_size * size
        steps = [list(step) for step in samples[:whole].reshape(-1, self.world_size, size)]
        rest = samples[whole:]
        if not self.drop_last and len(rest) >= self.world_size:
            return [*steps, np.array_split(rest, self.world_size)], []
        return steps, self._batches_of(rest, size)

    def _batches_of(self, samples: np.ndarray, size: int) -> list[np.ndarray]:
        batches = [samples[start : start + size] for start in range(0, len(samples), size)]
        return [batch for batch in batches if len(batch) == size] if self.drop_last else batches

    def _steps_of_rest(self, left: list[np.ndarray], steps: list[Step]) -> list[Step]:
        """Return steps of batches of several buckets; where that needs more of them, batches are divided.

        If those that are left cannot be divided, the batches of a step that can be are taken from `steps`.
        """
        while len(left) % self.world_size and not self.drop_last:
            largest = max(range(len(left)), key=lambda number: len(left[number]))
            if len(left[largest]) > 1:
                left += np.array_split(left.pop(largest), 2)
                continue
            step = max(range(len(steps)), key=lambda number: len(steps[number][0]), default=None)
            if step is None or len(steps[step][0]) == 1:
                break
            left += steps.pop(step)
        num_steps = len(left) // self.world_size
        return [left[step * self.world_size : (step + 1) * self.world_size] for step in range(num_steps)]
