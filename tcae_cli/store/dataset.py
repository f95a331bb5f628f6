"""LatentDataset provides a store as a torch Dataset of train-ready latents, and as batches that threads read.

Axes: b batch, c channels, h w positions.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from tcae_cli.errors import UsageError
from tcae_cli.runtime.shared_memory import shared_tensor
from tcae_cli.store.classes import ConcatDataset, renumber, warn_if_numbered_differently
from tcae_cli.store.generator_input import GeneratorInput
from tcae_cli.store.quantise import scale_of
from tcae_cli.store.reader import LatentStore, whole_numbers
from tcae_cli.store.spec import MAIN_VIEW

Normalise = Literal["channel", "position", "model", "none"]
Memory = Callable[[tuple[int, ...]], Tensor]  # allocates a tensor of that shape

FIELDS = ("latents", "label", "class_name", "caption", "key")
_AS_STORED = GeneratorInput(shift=[0.0], scale=[1.0])
_ROWS_TOGETHER = 256  # read at a time into memory
# From 2**15 values on, torch divides an operation among OpenMP threads. Those do not survive a fork, and the threads of
# `batches` are enough.
_VALUES_WITHOUT_OPENMP = 2**15 - 1


def _own_memory(shape: tuple[int, ...]) -> Tensor:
    """Return an unfilled float32 tensor; numpy requests huge pages, which makes the first use eight times as fast."""
    return torch.from_numpy(np.empty(shape, np.float32))


def _batch_memory(shape: tuple[int, ...]) -> Tensor:
    """Return the same, but from shared memory in a DataLoader's worker, which saves a copy on its way out."""
    return _own_memory(shape) if get_worker_info() is None else shared_tensor(shape, torch.float32)


class LatentDataset(Dataset[dict[str, Any]]):
    """LatentDataset provides the ok rows of a store as samples 0 to len - 1; it omits failed and pending rows.

    A sample is a dict of the requested fields: `latents` is [c, h, w], float32; `label` is [], int64, -1 where there is
    none; `class_name`, `caption` and `key` are str, "" where there is none.

    `store` is a folder or an s3:// or gs:// address. `fields` names any of latents, label, class_name, caption and key.
    `normalise` selects how latents get mean 0 and standard deviation 1: over each channel, from the store's statistics,
    or over each position of each channel, which reads the whole store first; constant latents become 0. `model` gives
    what the model's own generators take, such as diffusers' pipelines: by scale and shift, or those of each channel,
    and for Flux 2 with the 2 x 2 positions of a patch as channels. `none` leaves latents raw. `random_flip` takes each
    sample from the view or, with probability 1/2, from its mirrored twin, as torch's generator draws. `in_memory` reads
    all latents at once and keeps them as stored, one copy in each rank, which its workers share. `class_names` numbers
    the labels by another list of names, such as those of the dataset a model was trained on.

    A DataLoader may start its workers by any method, also after this process has read samples. Raises UsageError for
    an unknown field, view or normalisation, or a class that class_names lacks, StoreError if the store is not complete
    and latents are to be normalised by its statistics or if it does not record what generators take, and DiskError if
    shared memory cannot be allocated.
    """

    def __init__(
        self,
        store: Path | str,
        *,
        view: str = MAIN_VIEW,
        normalise: Normalise = "channel",
        random_flip: bool = False,
        fields: Sequence[str] = ("latents", "label"),
        in_memory: bool = False,
        class_names: Sequence[str] | None = None,
    ) -> None:
        _refuse_unknown(normalise, fields)
        self.store, self.fields = LatentStore(store, view), tuple(fields)
        self.views = [self.store]
        if random_flip:
            self.views.append(LatentStore(self.store.folder.uri, self.store.mirrored_view()))
        self.rows = self.store.ok_rows
        self.class_names: tuple[str, ...] = tuple(self.store.spec.source.class_names)
        self._labels = self.store.labels()[self.rows]
        if class_names is not None:
            self._labels = renumber(self._labels, self.class_names, class_names, self.store.folder.uri)
            self.class_names = tuple(class_names)
        warn_if_numbered_differently(self)
        self._texts = {}
        for name, read in (("key", self.store.keys), ("caption", self.store.captions)):
            if name in fields:
                # No Python objects: workers that count references to them would copy their memory.
                self._texts[name] = np.array(read(self.rows.tolist()), np.dtypes.StringDType())
        # The size of an int8 step in each view, [views, c, 1, 1]; None for other dtypes.
        self._generator = self.store.generator_input() if normalise == "model" else _AS_STORED
        scales = [scale for part in self.views if (scale := scale_of(part.spec, part.view)) is not None]
        self._scales = np.stack(scales)[:, :, None, None].repeat(self._generator.patch**2, 1) if scales else None
        # [c, 1, 1] or [c, h, w] each; None where latents stay raw.
        self._mean_std: tuple[np.ndarray, np.ndarray] | None = None
        if normalise == "channel":
            self._mean_std = self.store.channel_normalisation
        elif normalise == "position":
            self._mean_std = self.store.position_normalisation()
        elif normalise == "model":
            self._mean_std = self._generator.mean_and_std()
        # The same, [c, h, w] each: numpy is twice as fast as with one number for each channel.
        self._mean_std_of_values = self._mean_std and [
            np.broadcast_to(values, self.sample_shape).copy() for values in self._mean_std
        ]
        self._memory = [self._read_all(part) for part in self.views] if in_memory else None

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Return the shape of one sample's latents, [c, h, w]."""
        return self._generator.shape(self.store.sample_shape)

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
        return len(self.rows)

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
        batch = self._read(indices.reshape(-1), self._draw_views(indices.size), memory)
        return batch if indices.ndim else {name: values[0] for name, values in batch.items()}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return samples that were read together, as DataLoader(dataset, batch_size=...) asks for them."""
        batch = self._read(whole_numbers(indices), self._draw_views(len(indices)), _own_memory)
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
                views = self._draw_views(len(indices))  # here: in threads they would depend on which is the first
                ahead.append(threads.submit(self._read, whole_numbers(indices), views))
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
        self, indices: np.ndarray, views: np.ndarray, stored: np.ndarray | None, memory: Memory = _batch_memory
    ) -> dict[str, Any]:
        """Return the batch of samples whose latents have been read.

        `indices` and `views` are [b], int64; a view is its number in `self.views`. `stored` is [b, c, h, w], in the
        store's dtype, or None if latents are not among the fields. `memory` allocates the latents' float32 tensor.
        """
        batch: dict[str, Any] = {}
        for name in self.fields:
            match name:
                case "latents":
                    assert stored is not None
                    batch[name] = self._train_ready(stored, views, memory((len(stored), *self.sample_shape)))
                case "label":
                    batch[name] = torch.from_numpy(self._labels[indices])
                case "class_name":
                    names = self.class_names
                    labels = self._labels[indices].tolist()
                    batch[name] = [names[label] if 0 <= label < len(names) else "" for label in labels]
                case _:
                    batch[name] = self._texts[name][indices].tolist()
        return batch

    def _draw_views(self, count: int) -> np.ndarray:
        """Draw the number of the view that each sample is taken from."""
        if len(self.views) == 1:
            return np.zeros(count, np.int64)
        return torch.randint(len(self.views), (count,)).numpy()

    def _read(self, indices: np.ndarray, views: np.ndarray, memory: Memory = _batch_memory) -> dict[str, Any]:
        """Read the latents of samples, each from its view, where they are among the fields; return the batch."""
        if "latents" not in self.fields:
            return self.assemble(indices, views, None, memory)
        if len(self.views) == 1:
            return self.assemble(indices, views, self._stored_in(0, indices), memory)
        stored = np.empty((len(indices), *self.store.sample_shape), self.store.spec.dtype)
        for number in range(len(self.views)):
            is_of_it = views == number
            stored[is_of_it] = self._stored_in(number, indices[is_of_it])
        return self.assemble(indices, views, stored, memory)

    def _stored_in(self, view: int, indices: np.ndarray) -> np.ndarray:
        if self._memory is not None:
            return self._memory[view].numpy()[indices]
        return self.views[view].stored(self.rows[indices].tolist())

    def _train_ready(self, stored: np.ndarray, views: np.ndarray, out: Tensor) -> Tensor:
        """Fill `out` with float32 latents, dequantised and normalised."""
        stored = self._generator.patches(stored)
        # This thread alone converts the values: a DataLoader's worker has one thread, elsewhere small parts need one.
        most = out.numel() if torch.get_num_threads() == 1 else _VALUES_WITHOUT_OPENMP
        for target, part in zip(out.view(-1).split(most), torch.from_numpy(stored).view(-1).split(most), strict=True):
            target.copy_(part)
        latents = out.numpy()
        if self._scales is not None:
            latents *= self._scales[views]
        if self._mean_std_of_values is not None:
            mean, std = self._mean_std_of_values
            latents -= mean
            latents /= std
        return out

    def _read_all(self, view: LatentStore) -> Tensor:
        out = shared_tensor((len(self), *self.store.sample_shape), getattr(torch, view.spec.dtype))
        for start in range(0, len(self), _ROWS_TOGETHER):
            rows = self.rows[start : start + _ROWS_TOGETHER].tolist()
            out.numpy()[start : start + len(rows)] = view.stored(rows)
        return out


def _refuse_unknown(normalise: str, fields: Sequence[str]) -> None:
    if normalise not in get_args(Normalise):
        raise UsageError(f"normalise is {normalise!r}; use one of {', '.join(get_args(Normalise))}")
    if unknown := [name for name in fields if name not in FIELDS]:
        raise UsageError(f"there is no field {unknown[0]!r}; use some of {', '.join(FIELDS)}")
