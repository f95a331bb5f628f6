"""Decodes rows of a source into a batch of pixels and records; an unusable image costs its own row only."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tcae_cli.errors import ImageError
from tcae_cli.images.buckets import refuse_another_bucket
from tcae_cli.images.image_file import decode_scaled, image_size
from tcae_cli.images.transform import Transform, View, resize_and_crop
from tcae_cli.images.watchdog import RowNotes
from tcae_cli.reports.failure import TOO_SMALL, Failure
from tcae_cli.runtime.shared_memory import SharedBlocks
from tcae_cli.sources.source import Source

_ERROR_BYTES = 1000  # of an error's text, at most


@dataclass(frozen=True)
class Files:
    """The bytes of images that one process read for another, in shared memory."""

    data: Tensor  # uint8, one image after another, and room that is left
    places: dict[int, tuple[int, int]]  # of each row that could be read: its bytes' start and stop
    errors: dict[int, ImageError]  # of the other rows

    @classmethod
    def read(cls, source: Source, rows: Sequence[int], blocks: SharedBlocks) -> "Files":
        """Read the rows, in order, into a block. Raises SourceError if a container of theirs cannot be read."""
        read = dict(zip(rows, source.read_many(rows), strict=True))
        errors = {row: data for row, data in read.items() if isinstance(data, ImageError)}
        files = {row: data for row, data in read.items() if not isinstance(data, ImageError)}
        stops = dict(zip(files, accumulate(map(len, files.values())), strict=True))
        places = {row: (stops[row] - len(data), stops[row]) for row, data in files.items()}

        shared = blocks.take(max(stops.values(), default=0))
        together = shared.numpy().data
        for row, (start, stop) in places.items():
            together[start:stop] = files[row]
        return cls(shared, places, errors)

    def of(self, rows: Sequence[int]) -> Iterator[bytes | ImageError]:
        """Yield the bytes or the error of each row, as Source.read_many does."""
        together = self.data.numpy()
        for row in rows:
            if row in self.errors:
                yield self.errors[row]
            else:
                start, stop = self.places[row]
                yield together[start:stop].tobytes()


@dataclass(frozen=True)
class Crop:
    """The way in which the images of a batch become pixels, and how many it is padded to."""

    transform: Transform
    batch_size: int


class BatchRows(NamedTuple):
    """The rows of one batch."""

    rows: Sequence[int]  # ascending; rows[i] sits in slot i
    todo: tuple[int, ...] | None = None  # those to read, ascending; None: all
    files: Files | None = None  # of those rows; None: whoever decodes them reads them
    crop: "Crop | None" = None  # None: as the decoder's

    def asked(self) -> Sequence[int]:
        """Return the rows to read."""
        return self.rows if self.todo is None else self.todo


@dataclass(frozen=True)
class ImageBatch:
    """Images of some rows, padded to the batch size; a row that was not asked for leaves its slot zero."""

    source: Source
    rows: Sequence[int]  # of the slots 0 ... len(rows) - 1; the slots after them are padding
    todo: list[int]  # rows that were read, ascending
    images: list[Tensor]  # one for each shape, [batch_size, 3, h, w], uint8; zero where failed, not asked, padding
    original_sizes: np.ndarray  # [len(rows), 2], int32: height, width
    crops: list[np.ndarray]  # one for each shape, [len(rows), 4], int32: left, top, right, bottom
    content_hashes: np.ndarray  # [len(rows)], uint64: BLAKE2b of the file's bytes; 0 where it could not be read
    failures: dict[int, Failure] = field(default_factory=dict)  # by row
    decode_s: float = 0.0  # seconds a worker spent on it

    def slots(self) -> list[int]:
        """Return the slots of the rows that were read."""
        return [self.rows.index(row) for row in self.todo]

    def failure(self, row: int, stage: str, error: str) -> Failure:
        """Return the failure of a row, under its key in the source."""
        return Failure(row, self.source.key(row), stage, error)

    def pin_memory(self) -> "ImageBatch":
        """Return the batch with its images in pinned memory."""
        return replace(self, images=[images.pin_memory() for images in self.images])


class Decoded(NamedTuple):
    """A batch on its way from a worker.

    Everything outside shared memory goes through a pipe and has to fit into one write: the parent would wait for the
    rest of a message that a dying worker leaves unfinished. So failures are records, not text of any length.
    """

    images: list[Tensor]  # as in ImageBatch
    records: Tensor  # uint8: an array of _record_type, one for each slot
    decode_s: float


@dataclass(frozen=True)
class Decoder(Dataset[Decoded]):
    """Turns rows into pixels."""

    source: Source
    batch_size: int
    transform: Transform
    notes: RowNotes | None = None  # of the workers; None in the parent

    def __getitem__(self, batch: BatchRows) -> Decoded:
        decoder = self.of(batch)
        asked = batch.asked()
        return decoder.decode(asked, [batch.rows.index(row) for row in asked], len(batch.rows), batch.files)

    def of(self, batch: BatchRows) -> "Decoder":
        """Return the decoder of a batch, which may have a crop of its own."""
        if batch.crop is None:
            return self
        return replace(self, transform=batch.crop.transform, batch_size=batch.crop.batch_size)

    def decode(self, rows: Sequence[int], slots: Sequence[int], num_records: int, read: Files | None = None) -> Decoded:
        """Read rows into slots; an image that cannot be used leaves its slot zero, and its record says why.

        read: the files of the rows, where another process has read them.
        """
        started = time.perf_counter()
        shapes = self.transform.shapes
        images = [self._room(torch.zeros(self.batch_size, 3, *shape, dtype=torch.uint8)) for shape in shapes]
        records = np.zeros(num_records, self._record_type())
        files = iter(self.source.read_many(rows) if read is None else read.of(rows))
        for row, slot in zip(rows, slots, strict=True):
            try:
                views = self._views(row, files, records[slot])
            except ImageError as error:
                records[slot]["stage"] = error.stage.encode()
                records[slot]["error"] = str(error).encode(errors="backslashreplace")[:_ERROR_BYTES]
                continue
            records[slot]["original_size"] = views[0].original_size
            records[slot]["crops"] = [view.crop for view in views]
            for pictures, view in zip(images, views, strict=True):
                pictures[slot] = view.pixels
        if self.notes:
            self.notes.rest()
        self.source.release()
        packed = self._room(torch.from_numpy(records.view(np.uint8)))
        return Decoded(images, packed, time.perf_counter() - started)

    def records_of(self, decoded: Decoded) -> np.ndarray:
        """Return the records of a batch, one for each slot."""
        return decoded.records.numpy().view(self._record_type())

    def unpack(self, batch: BatchRows, decoded: Decoded) -> ImageBatch:
        """Return the batch that consumers get."""
        records = self.records_of(decoded)
        return ImageBatch(
            source=self.source,
            rows=batch.rows,
            todo=list(batch.asked()),
            images=decoded.images,
            original_sizes=records["original_size"].copy(),
            crops=[records["crops"][:, number].copy() for number in range(len(self.transform.shapes))],
            content_hashes=records["content_hash"].copy(),
            failures=failures_of(self.source, batch.rows, records),
            decode_s=decoded.decode_s,
        )

    def _views(self, row: int, files: Iterator[bytes | ImageError], record: np.void) -> list[View]:
        if self.notes:
            self.notes.begin(row, "read")
        data = next(files)
        if isinstance(data, ImageError):
            raise data
        if self.notes:
            self.notes.begin(row, "decode")
        record["content_hash"] = content_hash(data)
        if self.transform.min_size:
            _refuse_smaller(image_size(data), self.transform.min_size)
        image, original_size = decode_scaled(data, self.transform.least_side)
        if self.transform.buckets and self.source.image_sizes is not None:
            height, width = self.source.image_sizes[row].tolist()
            refuse_another_bucket((height, width), original_size, self.transform.buckets)
        resize = self.transform.resize
        return [resize_and_crop(image, shape, resize, original_size) for shape in self.transform.shapes]

    def _record_type(self) -> np.dtype:
        crops = ("crops", np.int32, (len(self.transform.shapes), 4))
        failure = [("stage", "S16"), ("error", f"S{_ERROR_BYTES}")]  # empty where nothing failed
        return np.dtype([("content_hash", np.uint64), ("original_size", np.int32, 2), crops, *failure])

    def _room(self, tensor: Tensor) -> Tensor:
        # Shared here, not while the batch is sent: if shared memory is full, this raises, while sending dies silently.
        return tensor.share_memory_() if self.notes else tensor


def _refuse_smaller(size: tuple[int, int], least: int) -> None:
    if min(size) < least:
        raise ImageError(TOO_SMALL, f"{size[0]} x {size[1]} pixels, where --min-size asks for {least} on each side")


def failures_of(source: Source, rows: Sequence[int], records: np.ndarray) -> dict[int, Failure]:
    """Return the failures that the records of these rows name, by row."""
    failures = {}
    for slot in np.flatnonzero(records["stage"] != b"").tolist():
        row = rows[slot]
        stage = records["stage"][slot].decode()
        error = records["error"][slot].decode(errors="ignore")
        failures[row] = Failure(row, source.key(row), stage, error)
    return failures


def content_hash(data: bytes) -> int:
    """Return 64 bits of the BLAKE2b of an image's bytes, as a store keeps them."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
