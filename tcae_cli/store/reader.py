"""LatentStore reads a store, for trainers and for `tcae decode`."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from tcae_cli.errors import StoreError, UsageError
from tcae_cli.runtime.folder import open_pinned
from tcae_cli.store.commit import read_failures
from tcae_cli.store.generator_input import GeneratorInput
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import bucket_folder, read_side_array, shard_file
from tcae_cli.store.quantise import FILL_VALUE, as_float
from tcae_cli.store.row_numbers import whole_numbers
from tcae_cli.store.shard_reader import ShardReader
from tcae_cli.store.spec import MAIN_VIEW, OK, PENDING, deviations_of
from tcae_cli.store.statistics import Moments, normalisation, summary_normalisation

if TYPE_CHECKING:
    from torch import Tensor

Latents = TypeVar("Latents", np.ndarray, "Tensor")

_ROWS_TOGETHER = 256  # read at a time where all are


class LatentStore:
    """LatentStore reads a store of latents, whose rows are 0 to len - 1; the `ok_rows` among them hold latents.

    What takes rows takes whole numbers in any order, or one, whose values then come without the first axis. It raises
    IndexError for a row out of range, UsageError for anything that is no row.

    `path` is a folder, or an address that begins with s3://, gs://, hf://datasets/ or https://. On the Hub a store is
    read at the commit that its revision stands for when it is opened. `view` is the array to read, a view or the
    deviations of one, of those in `spec.latent_arrays`. A store may be forked and pickled. A warning is shown if it is
    not complete. Raises StoreError if there is no store at the path, UsageError for an unknown view.
    """

    def __init__(self, path: Path | str, view: str = MAIN_VIEW) -> None:
        self.folder, self.view = open_pinned(path), view
        self._handle = StoreHandle(self.folder)
        self.spec = self._handle.spec
        self.complete = self._handle.is_complete
        self.summaries: dict[str, Any] = (
            self._handle.attributes["statistics"] or {}
        )  # of each view's ok rows, once complete
        if buckets := self.spec.buckets:
            raise UsageError(
                f"{path} is a store of buckets, each of which is a store of its own; name one of them, such as "
                f"{path}/{bucket_folder(buckets.names[0])}"
            )
        if view not in self.spec.latent_arrays:
            raise UsageError(f"{path} has no view {view}; it has {', '.join(self.spec.views)}")
        if not self.complete:
            warnings.warn(f"{path} is not complete: some rows hold no latents yet", stacklevel=2)
        self._reader = ShardReader(self.folder, self.spec, view)

    def __reduce__(self) -> tuple[type["LatentStore"], tuple[str, str]]:
        return type(self), (self.folder.uri, self.view)

    def __len__(self) -> int:
        """Return the number of rows, whatever their status."""
        return self.spec.num_rows

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Return the shape of one row's latents, [c, h, w]."""
        return self.spec.sample_shape(self.view)

    def mirrored_view(self) -> str:
        """Return the name of the view of the same images, mirrored. Raises UsageError if there is none."""
        views, own = self.spec.views, self.spec.latent_arrays[self.view]
        twin = next((name for name, view in views.items() if view.size == own.size and view.flip != own.flip), None)
        if own.flip:
            raise UsageError(f"view {self.view} of {self.folder.uri} is itself mirrored; name the plain one, {twin}")
        if twin is None:
            raise UsageError(f"{self.folder.uri} has no view {self.view}_flip; encode into another store with --flip")
        return twin

    def deviations(self) -> "LatentStore":
        """Return the store of the standard deviations of the posterior whose means are the latents of this view.

        Raises UsageError if the store holds none.
        """
        if not self.spec.latent.posterior:
            raise UsageError(
                f"{self.folder.uri} holds no deviations of its latents; encode into another store with --posterior"
            )
        return LatentStore(self.folder.uri, deviations_of(self.view))

    def latents(self, rows: int | Sequence[int]) -> np.ndarray:
        """Return the raw latents of rows, [k, c, h, w]; they are NaN where a row is not ok.

        They have the store's dtype; an int8 store returns float32, the stored values times the scale of their channel.
        Raises StoreError for damage.
        """
        values = self.stored(rows)
        if self.spec.quantisation is None:
            return values
        return np.where(values == FILL_VALUE, np.float32(np.nan), as_float(values, self.spec, self.view))

    def stored(self, rows: int | Sequence[int]) -> np.ndarray:
        """Return the latents of rows as they are stored, [k, c, h, w], in the store's dtype, which may be int8.

        A row that is not ok has the fill value, NaN or -128 for int8. Raises StoreError for damage.
        """
        numbers = self._row_numbers(rows)
        out = np.empty((numbers.size, *self.sample_shape), self.spec.dtype)
        for place in self._reader.read(numbers.reshape(-1), out):
            row = int(numbers.reshape(-1)[place])
            if np.searchsorted(self.ok_rows, row, "right") > np.searchsorted(self.ok_rows, row):
                raise self.lost(row)
            out[place] = FILL_VALUE if out.dtype == np.int8 else np.nan
        return out if numbers.ndim else out[0]

    def refuse_without_ok_rows(self) -> None:
        """Raise StoreError if no row holds latents."""
        if len(self.ok_rows):
            return
        if not self.complete:
            raise StoreError(f"{self.folder.uri} holds no latents yet; finish it by repeating tcae encode-dataset")
        raise without_good_row(self.folder.uri, len(self))

    def normalise(self, latents: Latents) -> Latents:
        """Return raw latents [..., c, h, w] scaled to mean 0 and deviation 1 in each channel over the store, float32.

        An array gives an array, and a tensor a tensor on its device. Raises StoreError while the store is not complete.
        """
        values, mean, std = self._with_normalisation(latents)
        return (values - mean) / std

    def denormalise(self, latents: Latents) -> Latents:
        """Return the raw latents, as `decode` takes them, of normalised ones: [..., c, h, w], float32.

        An array gives an array, and a tensor a tensor on its device. Raises StoreError while the store is not complete.
        """
        values, mean, std = self._with_normalisation(latents)
        return values * std + mean

    @cached_property
    def channel_normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and standard deviation of each channel over the store, [c, 1, 1] each, float32.

        With a posterior they are those of latents drawn from it. The deviation is at least 1e-6. Raises StoreError
        while the store is not complete.
        """
        self._refuse_without_statistics()
        return summary_normalisation(self.summaries[self.view])

    def generator_input(self) -> GeneratorInput:
        """Return what the generators of the model that made the latents take. Raises StoreError if it is not known."""
        if (found := self.spec.encoder.generators_take) is None:
            raise StoreError(
                f"{self.folder.uri} does not record what the generators of {self.spec.encoder.name} take, because it "
                f"was made by an earlier version or none are known; normalise by the store's statistics instead"
            )
        return found

    def position_normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and standard deviation at each position of each channel, [c, h, w] each, float32.

        A store does not keep these, so this reads all of it, which takes about a minute for a million rows of 16 KiB.
        The deviation is at least 1e-6. With a posterior they are those of latents drawn from it. Raises StoreError
        while the store is not complete, or for damage.
        """
        self._refuse_without_statistics()
        moments = self._moments()
        if self.spec.latent.posterior and self.view in self.spec.views:
            moments = moments.spread_by(self.deviations()._moments())
        return normalisation(moments.mean, moments.std)

    def _moments(self) -> Moments:
        """Read all rows, of which some are ok, and return the moments of their values at each place, [c, h, w]."""
        moments: Moments | None = None
        for start in range(0, len(self.ok_rows), _ROWS_TOGETHER):
            latents = self.latents(self.ok_rows[start : start + _ROWS_TOGETHER].tolist())
            moments = Moments.of(latents.astype(np.float32)).merge(moments)
        assert moments is not None
        return moments

    def refuse_other_encoder(self, encoder_hash: str, name: str, fix: str) -> None:
        """Raise StoreError unless this encoder made the latents, as StoreHandle.refuse_other_encoder says."""
        self._handle.refuse_other_encoder(encoder_hash, name, fix)

    def lost(self, row: int) -> StoreError:
        """Return the error to raise for an ok row whose latents are missing from the store."""
        name = shard_file(self.spec, self.view, row // self.spec.rows_per_shard)
        return StoreError(f"{self.folder.uri}/{name} lacks the latents of row {row}; see tcae verify {self.folder.uri}")

    @cached_property
    def ok_rows(self) -> np.ndarray:
        """Return the rows that hold latents, ascending, [num_ok], int64."""
        return np.flatnonzero(self.status() == OK)

    def status(self) -> np.ndarray:
        """Return the status of every row, [n], uint8: 0 pending, 1 ok, 2 failed."""
        status = self._side("status")
        # While rows are being appended the array may not reach them all yet.
        return np.pad(status, (0, len(self) - len(status)), constant_values=PENDING)

    def labels(self) -> np.ndarray:
        """Return the class number of every row, [n], int64; -1 where there is none.

        Raises StoreError if labels and captions were updated since the store was opened.
        """
        return self._read_updated("labels")

    def original_sizes(self) -> np.ndarray:
        """Return the height and width in pixels of the image of every row, [n, 2], int32; 0 where it is not ok."""
        return self._side("original_size")

    def crops(self) -> np.ndarray:
        """Return the part of the image of every row that the view shows, [n, 4], int32; 0 where it is not ok.

        These are the left, top, right and bottom of it, in pixels of the upright original.
        """
        return self._side(self.spec.crop_name(self.spec.latent_arrays[self.view].size))

    @overload
    def keys(self, rows: int) -> str: ...

    @overload
    def keys(self, rows: Sequence[int]) -> list[str]: ...

    def keys(self, rows: int | Sequence[int]) -> str | list[str]:
        """Return the key of each of these rows, in their order; of one row, given as an int, its key."""
        return _strings(self._keys, self._row_numbers(rows))

    @overload
    def captions(self, rows: int) -> str: ...

    @overload
    def captions(self, rows: Sequence[int]) -> list[str]: ...

    def captions(self, rows: int | Sequence[int]) -> str | list[str]:
        """Return the caption of each of these rows, in their order, "" where there is none; of one row, its caption.

        Raises StoreError if labels and captions were updated since the store was opened.
        """
        numbers = self._row_numbers(rows)
        if self.spec.has_captions:
            return _strings(self._read_updated("captions"), numbers)
        return [""] * len(numbers) if numbers.ndim else ""

    def content_hash(self, rows: int | Sequence[int] | None = None) -> np.ndarray:
        """Return the BLAKE2b hash of the image bytes that each row was encoded from, [k], uint64; by default of all."""
        hashes = self._side("content_hash")
        return hashes if rows is None else hashes[self._row_numbers(rows)]

    def failures(self) -> list[dict[str, Any]]:
        """Return a dict of row, path, stage and error for each failed row; none until the store is complete."""
        return [asdict(failure) for failure in read_failures(self.folder)] if self.complete else []

    def _read_updated(self, name: str) -> np.ndarray:
        """Return labels or captions as they were when the store was opened, with its class names."""
        try:
            return self._side(name)
        finally:
            if StoreHandle(self.folder).spec.metadata_updates != self.spec.metadata_updates:
                raise StoreError(
                    f"labels and captions of {self.folder.uri} were updated since it was opened; open it again"
                )

    def _row_numbers(self, rows: int | Sequence[int]) -> np.ndarray:
        numbers = whole_numbers(rows)
        if (wrong := numbers[(numbers < 0) | (numbers >= len(self))]).size:
            raise IndexError(f"row {wrong[0]} of {len(self)}")
        return numbers

    def _with_normalisation(self, latents: Any) -> tuple[Any, Any, Any]:
        """Return latents as float32, and the mean and the deviation of each channel, all arrays or all tensors."""
        mean, std = self.channel_normalisation
        if isinstance(latents, np.ndarray):
            return latents.astype(np.float32), mean, std
        import torch  # here: whoever reads arrays need not wait for it

        return latents.float(), *(torch.from_numpy(values).to(latents.device) for values in (mean, std))

    def _refuse_without_statistics(self) -> None:
        if self.view not in self.summaries:
            self.refuse_without_ok_rows()
            raise StoreError(f"{self.folder.uri} has no statistics yet; finish it by repeating tcae encode-dataset")

    @cached_property
    def _keys(self) -> np.ndarray:
        return self._side("keys")

    def _side(self, name: str) -> np.ndarray:
        return read_side_array(self.folder, self.spec, name, self.complete)


def without_good_row(uri: str, num_rows: int) -> StoreError:
    """Return the error of a complete store in which no row holds latents."""
    return StoreError(
        f"{uri} has no good row: all {num_rows:,} failed or are smaller than --min-size; tcae info says why, and "
        f"tcae encode-dataset --retry-failed encodes the failed once that is put right"
    )


def _strings(values: np.ndarray, rows: np.ndarray) -> str | list[str]:
    found = values[rows]
    return [str(value) for value in found] if rows.ndim else str(found)
