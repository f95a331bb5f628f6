"""Draws the order of a stream's epoch: the bucket of every batch, and the samples that each rank and worker reads."""

import numpy as np

from tcae_cli.store.dataset import LatentDataset


class StreamOrder:
    """The order of the samples of an epoch, which depends on nothing but these numbers and is the same on every rank.

    Shards are in an order of their own in each bucket. Ranks, and the workers of each, take stretches of that order, so
    that each reads few shards; what is left at its end is dropped. All ranks have batches of the same bucket at a step,
    except for what is left of the buckets, where fewer full batches than ranks are left of each.
    """

    def __init__(self, dataset: LatentDataset, batch_size: int, world_size: int, seed: int, epoch: int) -> None:
        self._dataset, self._batch_size = dataset, batch_size
        self.seed = [seed, epoch]
        random = np.random.default_rng(self.seed)
        self._shards = [random.permutation(part.store.spec.num_shards) for part in dataset.parts]

        batches = np.array([len(part.rows) // batch_size for part in dataset.parts])
        # Any of them may be dropped, so that a bucket of less than a batch for each rank is not dropped for ever.
        batches -= random.multivariate_hypergeometric(batches, batches.sum() % world_size)
        whole, rest = np.divmod(batches, world_size)
        numbers = np.arange(len(batches))
        own = np.repeat(numbers, whole)[:, None].repeat(world_size, axis=1)
        mixed = random.permutation(np.repeat(numbers, rest)).reshape(-1, world_size)
        # The bucket of each rank's batch, [steps, ranks].
        self._steps = random.permutation(np.concatenate([own, mixed]))

    def buckets(self, rank: int, part: int, num_parts: int) -> np.ndarray:
        """Return the number of the bucket of each batch that a worker, part of num_parts, yields, [batches], int64."""
        return self._steps[part::num_parts, rank]

    def pieces(self, rank: int, part: int, num_parts: int) -> list[list[np.ndarray]]:
        """Return the samples that a worker reads of each bucket, an array for each shard, int64."""
        earlier = [self._steps[:, :rank].ravel(), *(self.buckets(rank, other, num_parts) for other in range(part))]
        starts = self._num_samples(np.concatenate(earlier))
        stops = starts + self._num_samples(self.buckets(rank, part, num_parts))
        return [self._pieces(number, *stretch) for number, stretch in enumerate(zip(starts, stops, strict=True))]

    def dropped(self) -> np.ndarray:
        """Return the samples that no rank reads, ascending, int64."""
        starts = self._num_samples(self._steps.ravel())
        left = [self._pieces(number, start, len(self._dataset)) for number, start in enumerate(starts)]
        return np.sort(np.concatenate([np.empty(0, np.int64), *(piece for pieces in left for piece in pieces)]))

    def _num_samples(self, buckets: np.ndarray) -> np.ndarray:
        """Return the number of samples of each bucket in batches of these buckets."""
        return np.bincount(buckets, minlength=len(self._dataset.parts)) * self._batch_size

    def _pieces(self, bucket: int, start: int, stop: int) -> list[np.ndarray]:
        """Return the samples from start to stop of a bucket whose shards are shuffled, an array for each shard."""
        part, samples = self._dataset.parts[bucket], self._dataset.buckets[bucket].samples
        spec, shards = part.store.spec, self._shards[bucket]
        firsts = samples.start + np.searchsorted(part.rows, np.arange(spec.num_shards + 1) * spec.rows_per_shard)
        begins = np.cumsum([0, *(firsts[shards + 1] - firsts[shards])])
        found = []
        for shard, begin, end in zip(shards, begins, begins[1:], strict=False):
            low, high = max(start, begin), min(stop, end)
            if low < high:
                found.append(firsts[shard] + np.arange(low - begin, high - begin))
        return found
