"""LatentStream provides batches of a store that is larger than memory, from a few shards at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from tcae_cli.errors import UsageError
from tcae_cli.store.bucket_sampler import place_among_ranks
from tcae_cli.store.dataset import LatentDataset, Normalise
from tcae_cli.store.samples import SEEDS, Draws
from tcae_cli.store.shard_files import ShardFiles
from tcae_cli.store.spec import MAIN_VIEW
from tcae_cli.store.stream_order import StreamOrder


class LatentStream(IterableDataset[dict[str, Any]]):
    """LatentStream yields the shuffled batches of a rank, as dicts that LatentDataset describes.

    Use it with DataLoader(stream, batch_size=None), and call set_epoch before each epoch, as with DistributedSampler.

    Shards are read whole, in an order drawn from seed and epoch, as is the noise of sample_posterior. Rows are shuffled
    among `shards_together` shards, so a process holds that many compressed shard files, twice as many with random_flip,
    and twice as many again with sample_posterior. The ranks, and the workers of each, divide the shards of an epoch
    among them. Every rank yields the same number of full batches; the remainder, fewer than world_size * batch_size
    samples and different ones in each epoch, is dropped.

    In a store of buckets every batch is of one bucket, and a process holds `shards_together` shards of each. The
    batches of a step are of the same bucket on all ranks, except for what is left of the buckets, where fewer full
    batches than ranks are left of each. What is dropped is less than a batch of each bucket, and fewer full batches
    than there are ranks.

    LatentDataset describes the options that both share. `rank` and `world_size` default to those of torch.distributed
    or, before it is initialised, of the launch. Raises UsageError if a number is out of its range or there is less than
    one batch of samples for each rank, and the errors of LatentDataset.
    """

    def __init__(
        self,
        store: Path | str,
        *,
        batch_size: int,
        view: str = MAIN_VIEW,
        normalise: Normalise = "channel",
        random_flip: bool = False,
        sample_posterior: bool = False,
        fields: Sequence[str] = ("latents", "label"),
        shards_together: int = 4,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self._options: dict[str, Any] = {
            "view": view,
            "normalise": normalise,
            "random_flip": random_flip,
            "sample_posterior": sample_posterior,
        }
        self.dataset = LatentDataset(store, fields=fields, **self._options)
        self.batch_size = batch_size
        self.shards_together = shards_together
        self.seed = seed
        self.rank, self.world_size = place_among_ranks(rank, world_size)
        self._refuse_out_of_range()
        if not len(self):
            of_one = " of one shape" if len(self.dataset.parts) > 1 else ""
            raise UsageError(
                f"{self.dataset.uri} has {len(self.dataset)} samples, fewer than a batch of {batch_size}{of_one} for "
                f"each of {self.world_size} ranks; use smaller batches"
            )
        # Both are shared: persistent workers see the epoch change, and report how many they are.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._num_workers = torch.zeros((), dtype=torch.int64).share_memory_()
        self._num_given = 0  # batches of this epoch
        self._resumed_epoch: int | None = None
        self._has_begun = torch.empty(0, dtype=torch.bool)  # in the resumed epoch, each worker

    def __len__(self) -> int:
        """Return the number of batches that each rank yields in an epoch."""
        return sum(len(part.rows) // self.batch_size for part in self.dataset.parts) // self.world_size

    @property
    def num_dropped(self) -> int:
        """Return the number of samples that are dropped in each epoch."""
        return len(self.dataset) - len(self) * self.batch_size * self.world_size

    def dropped(self) -> np.ndarray:
        """Return the samples of the dataset that all ranks together leave out in this epoch, ascending, int64."""
        return self._order().dropped()

    def set_epoch(self, epoch: int) -> None:
        """Select the order of shards and rows of this epoch, from 0; setting the resumed epoch again continues it."""
        if epoch != int(self._epoch):
            self._epoch.fill_(epoch)
            self._num_workers.fill_(0)
            self._num_given, self._resumed_epoch = 0, None

    def state_dict(self, num_given: int | None = None) -> dict[str, Any]:
        """Return the position of this stream, which load_state_dict resumes from.

        `num_given` is the number of batches taken in this epoch, including those before it was resumed. It is required
        with worker processes, since this object does not see what their copies of the stream yield, unless the
        DataLoader itself has a state_dict. Raises UsageError if it is missing or exceeds the batches of an epoch.
        """
        num_workers = int(self._num_workers)
        if num_given is None and num_workers and get_worker_info() is None:
            raise UsageError("workers give this stream's batches; say how many you took: state_dict(num_given)")
        if num_given is not None and not 0 <= num_given <= len(self):
            raise UsageError(f"num_given is {num_given}, and an epoch has {len(self)} batches")
        taken = self._num_given if num_given is None else num_given
        return {"epoch": int(self._epoch), "num_given": taken, "num_workers": num_workers} | self._identity

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume once, from the position in a result of state_dict.

        Call it before the DataLoader starts its workers, and use the same number of workers as before. Raises
        UsageError if the state is incomplete, or if this stream's samples, batches, seed or ranks differ from it.
        """
        state = {"sample_posterior": False} | state  # which states of earlier versions lack
        if missing := [name for name in ("epoch", "num_given", "num_workers", *self._identity) if name not in state]:
            raise UsageError(f"the state has no {missing[0]}; pass the result of a LatentStream's state_dict")
        for name, value in self._identity.items():
            _refuse_change(name, state[name], value)
        self._epoch.fill_(state["epoch"])
        self._num_workers.fill_(state["num_workers"])
        self._num_given, self._resumed_epoch = state["num_given"], state["epoch"] if state["num_given"] else None
        # It is shared, since a worker's copy of the stream ends with the worker and the next is made from this one.
        self._has_begun = torch.zeros(max(1, state["num_workers"]), dtype=torch.bool).share_memory_()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the batches of this process in the epoch, or the rest of them if it was resumed."""
        epoch = int(self._epoch)
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 0)
        if epoch == self._resumed_epoch:
            if len(self._has_begun) != max(1, num_workers):
                _refuse_change("num_workers", int(self._num_workers), num_workers)
            # Each worker is marked: in a pass that was dropped at once some have not begun, and those would resume.
            if self._has_begun[worker]:
                raise UsageError(f"epoch {epoch} was resumed and is begun again; call set_epoch before each epoch")
            self._has_begun[worker] = True
        else:
            self._num_given = 0
            self._resumed_epoch = None
        self._num_workers.fill_(num_workers)

        # Batch k is made by part k % num_parts of the epoch; a DataLoader begins with worker 0 wherever it begins.
        first, num_parts = self._num_given + worker, max(1, num_workers)
        share = _Share(self, self._order(), first % num_parts, num_parts)
        for number in range(first, len(self), num_parts):
            self._num_given += num_parts
            yield share.batch(number // num_parts)

    def _order(self) -> StreamOrder:
        return StreamOrder(self.dataset, self.batch_size, self.world_size, self.seed, int(self._epoch))

    @property
    def _identity(self) -> dict[str, Any]:
        specs = [part.store.spec for part in self.dataset.parts]
        return {
            "num_samples": _one_or_all([len(part.rows) for part in self.dataset.parts]),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "world_size": self.world_size,
            "shards_together": self.shards_together,
            **self._options,
            # These identify the store wherever it lies: its latents, and the shards they are shuffled by.
            "source": specs[0].source.fingerprint,  # that of a bucket changes with the source of its store
            "encoder": specs[0].encoder.hash,
            "rows_per_shard": _one_or_all([spec.rows_per_shard for spec in specs]),
        }

    def _refuse_out_of_range(self) -> None:
        for name, least in (("batch_size", 1), ("shards_together", 1), ("world_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}; use {least} or more")
        if not 0 <= self.rank < self.world_size:
            raise UsageError(f"rank is {self.rank}; those of {self.world_size} ranks are 0 to {self.world_size - 1}")


class _Share:
    """Assembles the batches that one of a rank's workers yields in an epoch."""

    def __init__(self, stream: LatentStream, order: StreamOrder, part: int, num_parts: int) -> None:
        self._dataset = dataset = stream.dataset
        self._firsts = [bucket.samples.start for bucket in dataset.buckets]
        self._buckets = order.buckets(stream.rank, part, num_parts)
        # The samples of each batch, and the number of the view that each of them is taken from.
        self._indices, self._views = np.empty((2, len(self._buckets), stream.batch_size), np.int64)
        self._seed = [*order.seed, stream.rank, part]
        random = np.random.default_rng(self._seed)
        together = stream.shards_together
        for bucket, pieces in enumerate(order.pieces(stream.rank, part, num_parts)):
            windows = [pieces[first : first + together] for first in range(0, len(pieces), together)]
            mixed = [random.permutation(np.concatenate(window)) for window in windows]
            indices = np.concatenate(mixed) if mixed else np.empty(0, np.int64)
            views = random.integers(len(dataset.parts[bucket].views), size=len(indices))
            is_of_it = self._buckets == bucket
            self._indices[is_of_it] = indices.reshape(-1, stream.batch_size)
            self._views[is_of_it] = views.reshape(-1, stream.batch_size)
        self._files = [[ShardFiles(array, together) for array in part.arrays] for part in dataset.parts]

    def batch(self, number: int) -> dict[str, Any]:
        """Return the batch of this number among those of the worker."""
        bucket, indices, views = self._buckets[number], self._indices[number], self._views[number]
        if "latents" not in self._dataset.fields:
            return self._dataset.assemble(indices, Draws(views), [])
        part, files = self._dataset.parts[bucket], self._files[bucket]
        rows = part.rows[indices - self._firsts[bucket]].tolist()
        of_views = range(0, len(files), len(part.views))  # their latents and, where these are drawn, their deviations
        stored = [np.empty((len(rows), *part.store.sample_shape), part.store.spec.dtype) for _ in of_views]
        for first, values in zip(of_views, stored, strict=True):
            for slot, (row, view) in enumerate(zip(rows, views.tolist(), strict=True)):
                values[slot] = files[first + view].row(row)
        # Each batch has a seed of its own, so that a resumed epoch draws the same noise.
        seed = int(np.random.default_rng([*self._seed, number]).integers(SEEDS)) if part.deviations else None
        return self._dataset.assemble(indices, Draws(views, seed), stored)


def _one_or_all(values: list[int]) -> int | list[int]:
    """Return the value of a store of one shape, or the values of all buckets."""
    return values[0] if len(values) == 1 else values


def _refuse_change(name: str, old: Any, new: Any) -> None:
    if old != new:
        raise UsageError(f"the stream's {name} was {old} and is {new}; resume with the first")
