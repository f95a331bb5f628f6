"""Reads the ok rows of one store, whose latents have one shape, as train-ready samples.

Axes: b batch, c channels, h w positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tcae_cli.errors import StoreError, UsageError
from tcae_cli.runtime.shared_memory import shared_tensor
from tcae_cli.store.generator_input import GeneratorInput
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import bucket_folder
from tcae_cli.store.quantise import scale_of
from tcae_cli.store.reader import LatentStore, without_good_row
from tcae_cli.store.statistics import summary_normalisation

Normalise = Literal["channel", "position", "model", "none"]
MeanAndStd = tuple[np.ndarray, np.ndarray]  # [c, 1, 1] or [c, h, w] each

_ROWS_TOGETHER = 256  # read at a time into memory
SEEDS = 2**63 - 1
# From 2**15 values on, torch divides an operation among OpenMP threads. Those do not survive a fork, and the threads of
# `batches` are enough.
_VALUES_WITHOUT_OPENMP = 2**15 - 1


@dataclass(frozen=True)
class Draws:
    """The random choices that make a batch."""

    views: np.ndarray  # [b], int64: the number of the view that each sample is taken from
    seed: int | None = None  # of the noise with which latents are drawn from their posterior; None: they are its mean


class StoreSamples:
    """The ok rows of a store, each in one view or, with random_flip, in two: as it is, and mirrored.

    sample_posterior: whether latents are drawn from their posterior. generator: what the latents are turned into before
    mean_and_std is applied; None leaves them raw.
    """

    def __init__(
        self,
        store: LatentStore,
        random_flip: bool,
        sample_posterior: bool,
        generator: GeneratorInput,
        mean_and_std: MeanAndStd | None,
    ) -> None:
        self.store, self.rows = store, store.ok_rows
        self.views = [store]
        if random_flip:
            self.views.append(LatentStore(store.folder.uri, store.mirrored_view()))
        # Each view's, in the same order.
        self.deviations = [view.deviations() for view in self.views] if sample_posterior else []
        self.arrays = [*self.views, *self.deviations]
        self.shape = generator.shape(store.sample_shape)  # of one sample's latents, [c, h, w]
        self._generator = generator
        # The size of an int8 step in each array, [arrays, c, 1, 1]; None for other dtypes.
        scales = [scale for array in self.arrays if (scale := scale_of(array.spec, array.view)) is not None]
        self._scales = np.stack(scales)[:, :, None, None].repeat(generator.patch**2, 1) if scales else None
        # [c, h, w] each: numpy is twice as fast as with one number for each channel.
        self._mean_std = mean_and_std and [np.broadcast_to(values, self.shape).copy() for values in mean_and_std]
        self._memory: list[Tensor] | None = None

    def keep_in_memory(self) -> None:
        """Read all latents into shared memory, as they are stored. Raises DiskError if there is too little of it."""
        self._memory = [self._read_all(array) for array in self.arrays]

    def draw(self, count: int) -> Draws:
        """Draw what is random about so many samples, by torch's generator."""
        num_views = len(self.views)
        views = torch.randint(num_views, (count,)).numpy() if num_views > 1 else np.zeros(count, np.int64)
        return Draws(views, int(torch.randint(SEEDS, ())) if self.deviations else None)

    def read(self, places: np.ndarray, draws: Draws) -> list[np.ndarray]:
        """Return latents as they are stored, [b, c, h, w], and, where they are drawn, their deviations.

        places: of the samples among `rows`.
        """
        num_views = len(self.views)
        return [self._read_of(places, draws.views + first) for first in range(0, len(self.arrays), num_views)]

    def fill(self, out: Tensor, stored: Sequence[np.ndarray], draws: Draws) -> Tensor:
        """Fill `out`, [b, *shape], float32, with latents that were read, dequantised, drawn and normalised; return it.

        stored: as `read` returns it.
        """
        latents = self._convert(out, stored[0], draws.views)
        if draws.seed is not None:
            std = self._convert(torch.empty_like(out), stored[1], draws.views + len(self.views))
            std *= torch.randn(out.shape, generator=torch.Generator().manual_seed(draws.seed)).numpy()
            latents += std
        if self._mean_std is not None:
            mean, std = self._mean_std
            latents -= mean
            latents /= std
        return out

    def _convert(self, out: Tensor, stored: np.ndarray, arrays: np.ndarray) -> np.ndarray:
        """Fill `out` with stored values, as patches and dequantised; arrays: the number of each one's, [b]."""
        stored = self._generator.patches(stored)
        # This thread alone converts the values: a DataLoader's worker has one thread, elsewhere small parts need one.
        most = out.numel() if torch.get_num_threads() == 1 else _VALUES_WITHOUT_OPENMP
        for target, part in zip(out.view(-1).split(most), torch.from_numpy(stored).view(-1).split(most), strict=True):
            target.copy_(part)
        values = out.numpy()
        if self._scales is not None:
            values *= self._scales[arrays]
        return values

    def _read_of(self, places: np.ndarray, arrays: np.ndarray) -> np.ndarray:
        """Return stored values, [b, c, h, w]; arrays: the number of each one's."""
        if len(self.views) == 1 and len(arrays):
            return self._stored_in(int(arrays[0]), places)
        stored = np.empty((len(places), *self.store.sample_shape), self.store.spec.dtype)
        for number in np.unique(arrays).tolist():
            is_of_it = arrays == number
            stored[is_of_it] = self._stored_in(number, places[is_of_it])
        return stored

    def _stored_in(self, array: int, places: np.ndarray) -> np.ndarray:
        if self._memory is not None:
            return self._memory[array].numpy()[places]
        return self.arrays[array].stored(self.rows[places].tolist())

    def _read_all(self, array: LatentStore) -> Tensor:
        out = shared_tensor((len(self.rows), *self.store.sample_shape), getattr(torch, array.spec.dtype))
        for start in range(0, len(self.rows), _ROWS_TOGETHER):
            rows = self.rows[start : start + _ROWS_TOGETHER].tolist()
            out.numpy()[start : start + len(rows)] = array.stored(rows)
        return out


def open_stores(root: StoreHandle, view: str) -> list[LatentStore]:
    """Return the stores that hold the samples: the buckets of a store, or the store itself.

    Raises UsageError for an unknown view, such as the deviations of one, StoreError if the labels and captions of some
    are older than those of others, and the errors of LatentStore.
    """
    uri, buckets = root.folder.uri, root.spec.buckets
    if view not in root.spec.views:
        raise UsageError(f"{uri} has no view {view}; it has {', '.join(root.spec.views)}")
    uris = [f"{uri}/{bucket_folder(name)}" for name in buckets.names] if buckets else [uri]
    stores = [LatentStore(uri, view) for uri in uris]
    if any(store.spec.metadata_updates != root.spec.metadata_updates for store in stores):
        raise StoreError(
            f"labels and captions of {uri} are being updated, or that was interrupted; open it again, or repeat tcae "
            f"encode-dataset, which completes the update"
        )
    return stores


def mean_and_std(
    normalise: Normalise, root: StoreHandle, stores: Sequence[LatentStore], generator: GeneratorInput
) -> MeanAndStd | None:
    """Return what latents are normalised by; None leaves them raw. Those of a store's buckets are its own, merged."""
    if normalise == "none":
        return None
    if normalise == "model":
        return generator.mean_and_std()
    if root.spec.buckets is None:
        return stores[0].channel_normalisation if normalise == "channel" else stores[0].position_normalisation()
    if normalise == "position":
        raise UsageError(f"{root.folder.uri} has latents of several shapes; use normalise='channel'")
    summary = (root.attributes["statistics"] or {}).get(stores[0].view)
    if summary is None:
        if root.attributes["complete"]:
            raise without_good_row(root.folder.uri, root.spec.num_rows)
        raise StoreError(f"{root.folder.uri} has no statistics yet; finish it by repeating tcae encode-dataset")
    return summary_normalisation(summary)
