"""LatentDataset provides a store as a torch Dataset of train-ready latents, and as batches that threads read.

Axes: b batch, c channels, h w positions.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from tcae_cli.errors import UsageError
from tcae_cli.runtime.folder import open_pinned
from tcae_cli.runtime.shared_memory import shared_tensor
from tcae_cli.store.bucket_sampler import SamplesOfBucket
from tcae_cli.store.classes import ConcatDataset, renumber, warn_if_numbered_differently
from tcae_cli.store.generator_input import GeneratorInput
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.row_numbers import whole_numbers
from tcae_cli.store.samples import Draws, Normalise, StoreSamples, mean_and_std, open_stores
from tcae_cli.store.spec import MAIN_VIEW

Memory = Callable[[tuple[int, ...]], Tensor]  # allocates a tensor of that shape

FIELDS = ("latents", "label", "class_name", "caption", "key", "original_size", "crop")
_FIELDS_OF_STORES: dict[str, Callable[[LatentStore, np.ndarray], np.ndarray]] = {
    "key": lambda store, rows: np.array(store.keys(rows.tolist()), np.dtypes.StringDType()),
    "caption": lambda store, rows: np.array(store.captions(rows.tolist()), np.dtypes.StringDType()),
    "original_size": lambda store, rows: store.original_sizes()[rows].astype(np.int64),
    "crop": lambda store, rows: store.crops()[rows].astype(np.int64),
}
_AS_STORED = GeneratorInput(shift=[0.0], scale=[1.0])


def _own_memory(shape: tuple[int, ...]) -> Tensor:
    """Return an unfilled float32 tensor; numpy requests huge pages, which makes the first use eight times as fast."""
    return torch.from_numpy(np.empty(shape, np.float32))


def _batch_memory(shape: tuple[int, ...]) -> Tensor:
    """Return the same, but from shared memory in a DataLoader's worker, which saves a copy on its way out."""
    return _own_memory(shape) if get_worker_info() is None else shared_tensor(shape, torch.float32)


class LatentDataset(Dataset[dict[str, Any]]):
    """LatentDataset provides the ok rows of a store as samples 0 to len - 1; it omits failed and pending rows.

    A sample is a dict of the requested fields: `latents` is [c, h, w], float32; `label` is [], int64, -1 where there is
    none; `class_name`, `caption` and `key` are str, "" where there is none; `original_size`, height and width, and
    `crop`, the left, top, right and bottom of what is encoded of that, are [2] and [4], int64, in pixels.

    The samples of a store of buckets are those of one bucket after another, as `buckets` has them, and each has its own
    shape; BucketBatchSampler draws batches of one shape.

    `store` is a folder, or an address as LatentStore takes it. `fields` names any of those above.
    `normalise` selects how latents get mean 0 and standard deviation 1: over each channel, from the store's statistics,
    or over each position of each channel, which reads the whole store first; constant latents become 0. `model` gives
    what the model's own generators take, such as diffusers' pipelines: by scale and shift, or those of each channel,
    and for Flux 2 with the 2 x 2 positions of a patch as channels. `none` leaves latents raw. `random_flip` takes each
    sample from the view or, with probability 1/2, from its mirrored twin, as torch's generator draws.
    `sample_posterior` draws latents from the posterior that a store made with --posterior holds, mean + deviation x
    noise by torch's generator, anew whenever a sample is read; otherwise they are its mean. `in_memory` reads all
    latents at once and keeps them as stored, one copy in each rank, which its workers share. `class_names` numbers the
    labels by another list of names, such as those of the dataset a model was trained on.

    A DataLoader may start its workers by any method, also after this process has read samples. Raises UsageError for an
    unknown field, view or normalisation, a class that class_names lacks, or a store without a posterior, StoreError if
    the store is not complete and latents are to be normalised by its statistics or if it does not record what
    generators take, and DiskError if shared memory cannot be allocated.
    """

    def __init__(
        self,
        store: Path | str,
        *,
        view: str = MAIN_VIEW,
        normalise: Normalise = "channel",
        random_flip: bool = False,
        sample_posterior: bool = False,
        fields: Sequence[str] = ("latents", "label"),
        in_memory: bool = False,
        class_names: Sequence[str] | None = None,
    ) -> None:
        _refuse_unknown(normalise, fields)
        self.fields = tuple(fields)
        root = StoreHandle(open_pinned(store))
        self.uri: str = root.folder.uri
        stores = open_stores(root, view)
        self._generator = stores[0].generator_input() if normalise == "model" else _AS_STORED
        self._mean_std = mean_and_std(normalise, root, stores, self._generator)  # None where latents stay raw
        self.parts = [
            StoreSamples(each, random_flip, sample_posterior, self._generator, self._mean_std) for each in stores
        ]
        self._firsts = np.cumsum([0, *(len(part.rows) for part in self.parts)])  # samples, and their number at last

        self.class_names: tuple[str, ...] = tuple(root.spec.source.class_names)
        self._labels = np.concatenate([part.store.labels()[part.rows] for part in self.parts])
        if class_names is not None:
            self._labels = renumber(self._labels, self.class_names, class_names, self.uri)
            self.class_names = tuple(class_names)
        warn_if_numbered_differently(self)
        # No Python objects for texts: workers that count references to them would copy their memory.
        self._values = {
            name: np.concatenate([_FIELDS_OF_STORES[name](part.store, part.rows) for part in self.parts])
            for name in self.fields
            if name in _FIELDS_OF_STORES
        }
        for part in self.parts if in_memory else ():
            part.keep_in_memory()

    @property
    def buckets(self) -> list[SamplesOfBucket]:
        """Return the samples of each shape, one after another, with the height and width of their images in pixels."""
        return [
            SamplesOfBucket(range(first, stop), *part.store.spec.shapes[part.store.spec.sizes.index(size)])
            for part, first, stop in zip(self.parts, self._firsts.tolist(), self._firsts[1:].tolist(), strict=False)
            for size in [part.store.spec.views[part.store.view].size]
        ]

    @property
    def store(self) -> LatentStore:
        """Return the store of the samples. Raises UsageError for one of several buckets."""
        return self._only_part.store

    @property
    def rows(self) -> np.ndarray:
        """Return the row in the store of every sample, [len], int64. Raises UsageError for one of several buckets."""
        return self._only_part.rows

    @property
    def views(self) -> list[LatentStore]:
        """Return the view of the store, and its mirrored twin with random_flip. Raises as `store` does."""
        return self._only_part.views

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Return the shape of one sample's latents, [c, h, w]. Raises UsageError for a store of several buckets."""
        return self._only_part.shape

    @property
    def num_classes(self) -> int:
        """Return the number of named classes or, where classes have no names, one more than the largest label."""
        return len(self.class_names) or int(self._labels.max(initial=-1)) + 1

    @property
    def labels(self) -> Tensor:
        """Return the label of every sample, [len], int64, -1 where there is none: `labels[i]` is that of `dataset[i]`.

        A sampler that draws each class equally often weighs samples by `1 / labels.bincount()[labels]`.
        """
        return torch.from_numpy(self._labels)

    def __len__(self) -> int:
        """Return the number of samples, which is the number of ok rows."""
        return int(self._firsts[-1])

    def __add__(self, other: Dataset[Any]) -> ConcatDataset:
        """Return the samples of both. Raises UsageError if the two number classes differently."""
        return ConcatDataset([self, other])

    def __getitem__(self, index: int | Sequence[int]) -> dict[str, Any]:
        """Return one sample or, for a list of indices, a batch: `latents` [b, c, h, w], `label` [b], lists of str.

        DataLoader(dataset, sampler=BatchSampler(...), batch_size=None) reads such batches. Raises IndexError if an
        index is out of range, UsageError if it is not a whole number (a mask, for example), StoreError on damage.
        """
        indices = whole_numbers(index)
        memory = _batch_memory if indices.ndim else _own_memory
        batch = self._read(indices.reshape(-1), self.parts[0].draw(indices.size), memory)
        return batch if indices.ndim else {name: values[0] for name, values in batch.items()}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return samples that were read together, as DataLoader(dataset, batch_size=...) asks for them."""
        batch = self._read(whole_numbers(indices), self.parts[0].draw(len(indices)), _own_memory)
        columns = [values.unbind() if isinstance(values, Tensor) else values for values in batch.values()]
        return [dict(zip(batch, sample, strict=True)) for sample in zip(*columns, strict=True)]

    def batches(
        self, batches: Iterable[Sequence[int]], num_threads: int = 2, prefetch: int = 4
    ) -> Iterator[dict[str, Any]]:
        """Yield the batch of each list of indices, in order; threads read them, so no tensor moves between processes.

        `batches` may be BatchSampler(DistributedSampler(dataset), 256, drop_last=True), for example. At most `prefetch`
        batches are read ahead. The threads end when the iterator is exhausted, closed or dropped. Raises UsageError if
        num_threads is less than 1, and the errors of `dataset[indices]`.
        """
        if num_threads < 1:
            raise UsageError(f"num_threads is {num_threads}; use 1 or more")
        threads = ThreadPoolExecutor(num_threads, "latents")
        ahead: deque[Future[dict[str, Any]]] = deque()
        try:
            for indices in batches:
                draws = self.parts[0].draw(len(indices))  # here: in threads they would depend on which is the first
                ahead.append(threads.submit(self._read, whole_numbers(indices), draws))
                if len(ahead) > prefetch:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)

    def denormalise(self, latents: Tensor) -> Tensor:
        """Return the raw latents, as `decode` takes them, of normalised ones: [..., c, h, w], float32, same device."""
        if self._mean_std is None:
            return latents.float()
        mean, std = (torch.from_numpy(values).to(latents.device) for values in self._mean_std)
        return self._generator.positions(latents.float() * std + mean)

    def assemble(
        self, indices: np.ndarray, draws: Draws, stored: Sequence[np.ndarray], memory: Memory = _batch_memory
    ) -> dict[str, Any]:
        """Return the batch of samples of one shape whose latents have been read.

        `indices` is [b], int64. `stored` is as StoreSamples.read returns it, empty if latents are not among the fields.
        `memory` allocates the latents' float32 tensor.
        """
        batch: dict[str, Any] = {}
        for name in self.fields:
            match name:
                case "latents":
                    part = self.parts[self._part_of(indices)]
                    batch[name] = part.fill(memory((len(indices), *part.shape)), stored, draws)
                case "label":
                    batch[name] = torch.from_numpy(self._labels[indices])
                case "class_name":
                    names = self.class_names
                    labels = self._labels[indices].tolist()
                    batch[name] = [names[label] if 0 <= label < len(names) else "" for label in labels]
                case "caption" | "key":
                    batch[name] = self._values[name][indices].tolist()
                case _:
                    batch[name] = torch.from_numpy(self._values[name][indices])
        return batch

    def _read(self, indices: np.ndarray, draws: Draws, memory: Memory = _batch_memory) -> dict[str, Any]:
        """Read the latents of samples, each from its view, where they are among the fields; return the batch."""
        if "latents" not in self.fields:
            return self.assemble(indices, draws, [], memory)
        number = self._part_of(indices)
        return self.assemble(indices, draws, self.parts[number].read(indices - self._firsts[number], draws), memory)

    def _part_of(self, indices: np.ndarray) -> int:
        """Return the number of the part that all these samples are in. Raises UsageError if they are in several."""
        if len(self.parts) == 1 or not len(indices):
            return 0
        numbers = np.unique(np.searchsorted(self._firsts, indices, side="right") - 1)
        if len(numbers) > 1:
            shapes = " and ".join(str(self.parts[number].shape) for number in numbers[:2])
            raise UsageError(f"samples of shapes {shapes} make no batch; draw batches with BucketBatchSampler")
        if not 0 <= numbers[0] < len(self.parts):
            raise IndexError(f"sample {indices.max()} of {len(self)}")
        return int(numbers[0])

    @property
    def _only_part(self) -> StoreSamples:
        if len(self.parts) > 1:
            raise UsageError(
                f"{self.uri} has latents of {len(self.parts)} shapes; see LatentDataset.parts and .buckets, and read "
                f"batches with dataset.batches(BucketBatchSampler(dataset, ...))"
            )
        return self.parts[0]


def _refuse_unknown(normalise: str, fields: Sequence[str]) -> None:
    if normalise not in get_args(Normalise):
        raise UsageError(f"normalise is {normalise!r}; use one of {', '.join(get_args(Normalise))}")
    if unknown := [name for name in fields if name not in FIELDS]:
        raise UsageError(f"there is no field {unknown[0]!r}; use some of {', '.join(FIELDS)}")
