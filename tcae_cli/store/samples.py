"""Reads the ok rows of one store, whose latents have one shape, as train-ready samples.

Axes: b batch, c channels, h w positions.
"""

from collections.abc import Sequence
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
from tcae_cli.store.reader import LatentStore, summary_normalisation

Normalise = Literal["channel", "position", "model", "none"]
MeanAndStd = tuple[np.ndarray, np.ndarray]  # [c, 1, 1] or [c, h, w] each

_ROWS_TOGETHER = 256  # read at a time into memory
# From 2**15 values on, torch divides an operation among OpenMP threads. Those do not survive a fork, and the threads of
# `batches` are enough.
_VALUES_WITHOUT_OPENMP = 2**15 - 1


class StoreSamples:
    """The ok rows of a store, each in one view or, with random_flip, in two: as it is, and mirrored.

    generator: what the latents are turned into before mean_and_std is applied; None leaves them raw.
    """

    def __init__(
        self, store: LatentStore, random_flip: bool, generator: GeneratorInput, mean_and_std: MeanAndStd | None
    ) -> None:
        self.store, self.rows = store, store.ok_rows
        self.views = [store]
        if random_flip:
            self.views.append(LatentStore(store.folder.uri, store.mirrored_view()))
        self.shape = generator.shape(store.sample_shape)  # of one sample's latents, [c, h, w]
        self._generator = generator
        # The size of an int8 step in each view, [views, c, 1, 1]; None for other dtypes.
        scales = [scale for view in self.views if (scale := scale_of(view.spec, view.view)) is not None]
        self._scales = np.stack(scales)[:, :, None, None].repeat(generator.patch**2, 1) if scales else None
        # [c, h, w] each: numpy is twice as fast as with one number for each channel.
        self._mean_std = mean_and_std and [np.broadcast_to(values, self.shape).copy() for values in mean_and_std]
        self._memory: list[Tensor] | None = None

    def keep_in_memory(self) -> None:
        """Read all latents into shared memory, as they are stored. Raises DiskError if there is too little of it."""
        self._memory = [self._read_all(view) for view in self.views]

    def read(self, places: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Return latents as they are stored, [b, c, h, w]; places: among `rows`; views: the number of each one's."""
        if len(self.views) == 1:
            return self._stored_in(0, places)
        stored = np.empty((len(places), *self.store.sample_shape), self.store.spec.dtype)
        for number in range(len(self.views)):
            is_of_it = views == number
            stored[is_of_it] = self._stored_in(number, places[is_of_it])
        return stored

    def fill(self, out: Tensor, stored: np.ndarray, views: np.ndarray) -> Tensor:
        """Fill `out`, [b, *shape], float32, with latents that were read, dequantised and normalised; return it."""
        stored = self._generator.patches(stored)
        # This thread alone converts the values: a DataLoader's worker has one thread, elsewhere small parts need one.
        most = out.numel() if torch.get_num_threads() == 1 else _VALUES_WITHOUT_OPENMP
        for target, part in zip(out.view(-1).split(most), torch.from_numpy(stored).view(-1).split(most), strict=True):
            target.copy_(part)
        latents = out.numpy()
        if self._scales is not None:
            latents *= self._scales[views]
        if self._mean_std is not None:
            mean, std = self._mean_std
            latents -= mean
            latents /= std
        return out

    def _stored_in(self, view: int, places: np.ndarray) -> np.ndarray:
        if self._memory is not None:
            return self._memory[view].numpy()[places]
        return self.views[view].stored(self.rows[places].tolist())

    def _read_all(self, view: LatentStore) -> Tensor:
        out = shared_tensor((len(self.rows), *self.store.sample_shape), getattr(torch, view.spec.dtype))
        for start in range(0, len(self.rows), _ROWS_TOGETHER):
            rows = self.rows[start : start + _ROWS_TOGETHER].tolist()
            out.numpy()[start : start + len(rows)] = view.stored(rows)
        return out


def open_stores(root: StoreHandle, view: str) -> list[LatentStore]:
    """Return the stores that hold the samples: the buckets of a store, or the store itself.

    Raises StoreError if the labels and captions of some are older than those of others, and the errors of LatentStore.
    """
    uri, buckets = root.folder.uri, root.spec.buckets
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
        raise StoreError(f"{root.folder.uri} has no statistics yet; finish it by repeating tcae encode-dataset")
    return summary_normalisation(summary)
