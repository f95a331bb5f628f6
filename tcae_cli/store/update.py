"""Brings the labels and captions of a store up to date, all at once: one write of the root makes them current.

docs/stores.md has the protocol. A reader that has the store open finds the old ones, or is told to open it again.
store/buckets.py does the same for all buckets of a store.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from tcae_cli.errors import StoreError
from tcae_cli.runtime.checksums import crc32c_of
from tcae_cli.store.handle import StoreHandle, fit_arrays
from tcae_cli.store.layout import UPDATED, shard_file, side_metadata
from tcae_cli.store.record import FileRecord, read_records, record_file
from tcae_cli.store.side_chunks import SideChunks
from tcae_cli.store.spec import SourceIdentity, StoreSpec

_SHARDS_TOGETHER = 64
CHANGED = ("source", "has_captions", "classes_given", "metadata_updates")  # attributes of a root, by an update


class Described(Protocol):
    """The rows of a source, with the labels and captions that those of the store should have."""

    @property
    def has_captions(self) -> bool:
        """Return whether any row may have a caption."""

    def labels(self, start: int, stop: int) -> np.ndarray:
        """Return the class numbers of rows start ... stop - 1, [stop - start], int64."""

    def caption(self, row: int) -> str:
        """Return the caption of a row, "" if it has none."""


def updated_spec(store: StoreHandle, source: SourceIdentity, described: Described, classes_given: bool) -> StoreSpec:
    """Return the spec that a store has once its labels and captions are those of its source."""
    return store.spec.model_copy(
        update={
            "source": source,
            "has_captions": store.spec.has_captions or described.has_captions,
            "classes_given": store.spec.classes_given or classes_given,
            "metadata_updates": store.spec.metadata_updates + 1,
        }
    )


def find_outdated(store: StoreHandle, described: Described) -> tuple[int, int]:
    """Return how many rows of the shards that are written have another label, and caption, than in the source.

    Raises StoreError for a chunk that is missing or damaged.
    """
    spec, side = store.spec, SideChunks(store)
    num_labels = num_captions = 0
    for shard in _written(store):
        rows = spec.rows_of_shard(shard)
        labels = side.decode("labels", shard, _read_chunk(store, "labels", shard))
        num_labels += int((labels != described.labels(rows.start, rows.stop)).sum())
        captions = [""] * len(rows)
        if spec.has_captions:
            captions = side.decode("captions", shard, _read_chunk(store, "captions", shard)).tolist()
        num_captions += sum(caption != described.caption(row) for row, caption in zip(rows, captions, strict=True))
    return num_labels, num_captions


def prepare_update(store: StoreHandle, new: StoreSpec, described: Described) -> None:
    """Write the labels and captions of a source beside those that are current. Killed at any instant, these stay.

    new: the spec that the store will have, as updated_spec returns it. No other process may write to the store until
    make_current has been called.
    """
    folder, side = store.folder, SideChunks(store, new)
    # Chunks under the new names are of the update before the last, or of one that was killed. First no record may name
    # them, since a record is void without its files.
    _let_records_name(store, store.spec)
    folder.remove([file for array in UPDATED for file in folder.sizes(array) if _is_chunk(new, file)])

    sizes = folder.sizes()
    for shards in _together(_written(store)):
        chunks: dict[str, bytes] = {}
        records: dict[str, bytes] = {}
        for shard, record in read_records(folder, shards, sizes):
            of_shard = _chunks(side, new, shard, described)
            chunks |= of_shard
            if record:
                files = {name: FileRecord(size=len(data), crc32c=crc32c_of(data)) for name, data in of_shard.items()}
                records |= record_file(new, record.model_copy(update={"files": record.files | files}))
        folder.write(chunks, records)


def make_current(store: StoreHandle, new: StoreSpec) -> None:
    """Let a store have the labels and captions that prepare_update has written. It may have them already."""
    copies = copied_nodes(store)
    store.write_root(copies | (updated_arrays(store, new) if copies else {}), **changes_of(new))
    fit_arrays(store)
    _let_records_name(store, new)


def changes_of(new: StoreSpec) -> dict[str, Any]:
    """Return the attributes of a root that an update changes."""
    return new.model_dump(mode="json", include=set(CHANGED))


def copied_nodes(store: StoreHandle) -> dict[str, bytes]:
    """Return the zarr.json files that the root of a complete store has copies of, by name."""
    return {f"{node}/zarr.json": json.dumps(metadata).encode() for node, metadata in store.consolidated.items()}


def updated_arrays(store: StoreHandle, new: StoreSpec) -> dict[str, bytes]:
    """Return the zarr.json of labels and captions after the update, by name in the store."""
    arrays = [array for array in UPDATED if array in new.side_arrays]
    return {f"{array}/zarr.json": side_metadata(store.folder, new, array) for array in arrays}


def _written(store: StoreHandle) -> list[int]:
    """Return the shards that have labels, whether they are committed or not."""
    sizes = store.folder.sizes("labels")
    return [shard for shard in range(store.spec.num_shards) if shard_file(store.spec, "labels", shard) in sizes]


def _read_chunk(store: StoreHandle, array: str, shard: int) -> bytes:
    file = shard_file(store.spec, array, shard)
    (data,) = store.folder.read_many([file])
    if data is None:
        raise StoreError(
            f"{store.folder.uri}/{file} is missing; repeat tcae encode-dataset, which encodes its shard again"
        )
    return data


def _together(shards: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield the shards that are written with one wait for the disk."""
    return (shards[start : start + _SHARDS_TOGETHER] for start in range(0, len(shards), _SHARDS_TOGETHER))


def _chunks(side: SideChunks, spec: StoreSpec, shard: int, described: Described) -> dict[str, bytes]:
    """Return the files of a shard's labels and captions, by name in the store."""
    rows = spec.rows_of_shard(shard)
    values: dict[str, Any] = {"labels": described.labels(rows.start, rows.stop)}
    if spec.has_captions:
        values["captions"] = np.array([described.caption(row) for row in rows], object)
    return {shard_file(spec, name, shard): side.encode(name, shard, each) for name, each in values.items()}


def _is_chunk(spec: StoreSpec, file: str) -> bool:
    """Return whether a file is named as the chunks of labels and captions are in a store of this spec."""
    names = "|".join(re.escape(shard_file(spec, array, 0).removesuffix("0")) for array in UPDATED)
    return re.fullmatch(rf"({names})(0|[1-9][0-9]*)", file) is not None


def _let_records_name(store: StoreHandle, spec: StoreSpec) -> None:
    """Let the records name the chunks of labels and captions of this spec, and no others."""
    folder = store.folder
    sizes = folder.sizes()
    for shards in _together(range(spec.num_shards)):
        changed: dict[str, bytes] = {}
        for _, record in read_records(folder, shards, sizes):
            if record is None:
                continue
            others = {name for name in record.files if name.partition("/")[0] in UPDATED and not _is_chunk(spec, name)}
            if others:
                files = {name: file for name, file in record.files.items() if name not in others}
                changed |= record_file(spec, record.model_copy(update={"files": files}))
        folder.write(changed)
