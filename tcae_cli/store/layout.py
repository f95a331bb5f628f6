"""Names the files of a store, and makes the metadata of its group and its arrays.

The format is specified in docs/stores.md.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from tcae_cli.errors import StoreError
from tcae_cli.runtime.folder import Folder
from tcae_cli.store.codecs.registry import CODECS
from tcae_cli.store.metadata import group_file, metadata_file, parse_metadata, sealed_names
from tcae_cli.store.quantise import FILL_VALUE
from tcae_cli.store.spec import PENDING, StoreSpec

_TABLE_CHUNK_ROWS = 65_536
_TO_BUFFER = default_buffer_prototype().buffer.from_bytes

PRIVATE_FOLDER = ".tcae"
INDEXES = f"{PRIVATE_FOLDER}/index"
ROOT = "zarr.json"
BUCKETS = "buckets"  # the group that holds a store for each bucket
UPDATED = ("labels", "captions")  # the side arrays that change after their rows are encoded
# What zarr and the parsing of its metadata raise for damaged files.
DAMAGED = (ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError, RuntimeError, MemoryError)

# Rows that are not ok have values that no computation overlooks.
_FILL_VALUES: dict[str, Any] = {"float16": math.nan, "float32": math.nan, "int8": FILL_VALUE}
_SIDE_FILL_VALUES: dict[str, Any] = {"string": "", "int64": -1, "uint8": PENDING}


def index_folder(spec: StoreSpec) -> str:
    """Return the name of the folder with the index of a store's source, of which each update writes a new one."""
    return f"{INDEXES}/{spec.source.fingerprint}" + (f".{spec.metadata_updates}" if spec.metadata_updates else "")


def shard_file(spec: StoreSpec, array: str, shard: int) -> str:
    """Return the name of a shard's file in an array: its position along each axis, with "." between."""
    dimensions = 4 if array in spec.latent_arrays else 1 + len(_row_shape(array))
    return f"{array}/c{_separator(spec, array)}{shard}" + ".0" * (dimensions - 1)


def array_metadata(spec: StoreSpec) -> dict[str, bytes]:
    """Return the zarr.json of a store's latent and side arrays, and of the private folder, by file name."""
    if spec.buckets:
        return _bucketed_metadata()
    files: dict[str, Any] = {}
    store, n, rows = MemoryStore(files), spec.num_rows, spec.rows_per_shard
    for name, view in spec.latent_arrays.items():
        shape = spec.sample_shape(name)
        scale = {"scale": spec.quantisation.scale[name]} if spec.quantisation else {}  # of each channel's int8 step
        zarr.create_array(
            store,
            name=name,
            shape=(n, *shape),
            dtype=spec.dtype,
            chunks=(1, *shape),
            shards=(rows, *shape),
            compressors=_view_compressors(spec),
            fill_value=_FILL_VALUES[spec.dtype],
            chunk_key_encoding={"name": "default", "separator": "."},  # one folder, one fsync
            dimension_names=spec.dimension_names(name),
            attributes={"size": view.size, "flip": view.flip, **scale},
        )
    for name, dtype in spec.side_arrays.items():
        zarr.create_array(
            store,
            name=name,
            shape=(n, *_row_shape(name)),
            dtype=dtype,
            chunks=(rows, *_row_shape(name)),
            compressors=side_compressors(spec),
            fill_value=_SIDE_FILL_VALUES.get(dtype, 0),
            chunk_key_encoding={"name": "default", "separator": _separator(spec, name)},
            dimension_names=spec.dimension_names(name),
        )
    if spec.has_checksums:
        _add_private_array(store)
    return _metadata_among(files, sealed=spec.has_checksums)


def bucket_folder(name: str) -> str:
    """Return the name of the folder of a bucket in its store."""
    return f"{BUCKETS}/{name}"


def side_compressors(spec: StoreSpec) -> Any:
    """Return the `compressors` argument of zarr.create_array for every array but the views."""
    return (ZstdCodec(), Crc32cCodec()) if spec.has_checksums else "auto"


def table_files(
    spec: StoreSpec, group: str, arrays: Mapping[str, tuple[np.ndarray, Sequence[str]]]
) -> dict[str, bytes]:
    """Return the files of a group of arrays, each given with the names of its dimensions, by name in the store."""
    files: dict[str, Any] = {}
    for name, (values, dimension_names) in arrays.items():
        array = zarr.create_array(
            MemoryStore(files),
            name=f"{group}/{name}",
            shape=values.shape,
            dtype="string" if values.dtype == object else values.dtype,
            chunks=(max(1, min(len(values), _TABLE_CHUNK_ROWS)), *values.shape[1:]),
            compressors=side_compressors(spec),
            dimension_names=dimension_names if spec.has_checksums else None,
        )
        if values.size:
            # Every chunk is a file, so that a missing one is noticed.
            array.with_config({"write_empty_chunks": True})[...] = values
    found = {name: data.to_bytes() for name, data in files.items() if name.startswith(f"{group}/")}
    if spec.has_checksums:
        found |= {name: _sealed(data) for name, data in found.items() if name.endswith("/zarr.json")}
    return found


def read_side_array(folder: Folder, spec: StoreSpec, name: str, is_complete: bool) -> np.ndarray:
    """Return the values of a side array, [n, ...]; while a store is not complete, fill values and fewer rows as well.

    Raises as read_array does.
    """
    values = read_array(folder, name, spec.num_rows, is_complete, spec if name in UPDATED else None)
    dtype = spec.side_arrays[name]
    is_right = values.dtype.kind in "OT" if dtype == "string" else values.dtype == dtype
    if not is_right or values.shape[1:] != _row_shape(name) or (is_complete and len(values) != spec.num_rows):
        raise _damaged(folder, name, f"its values are {values.dtype} {list(values.shape)}")
    return values


def read_array(
    folder: Folder, name: str, most_rows: int | None = None, is_complete: bool = True, spec: StoreSpec | None = None
) -> np.ndarray:
    """Return all values of a small array, not one of latents, or its first rows.

    spec: given for labels and captions, whose chunks are those that the root names, whatever their own metadata say
    yet.
    Raises StoreError if the array is missing or damaged, or lacks a chunk although the store is complete, DiskError if
    a file of it cannot be read.
    """
    file = f"{name}/zarr.json"
    (data,) = folder.read_many([file])
    if data is None and spec and name == "captions" and spec.metadata_updates:
        data = array_metadata(spec)[file]  # an update may have given the store captions
    if data is None:
        raise StoreError(f"{folder.uri}/{file} is missing; tcae verify {folder.uri} says what else")
    try:
        if spec:
            data = _naming_chunks(data, spec, name)
        metadata = parse_metadata(data)
        # zarr does not read the object store itself: it would leave a connection of its own open.
        files: dict[str, Any] = {file: _TO_BUFFER(data)}
        array = zarr.open_array(MemoryStore(files), path=name, mode="r")
        num_rows = array.shape[0] if most_rows is None else min(most_rows, array.shape[0])
        # The tables of format version 1 have no chunk where all values are fill values.
        is_whole = is_complete and (most_rows is not None or sealed_names(metadata) is not None)
        # Chunks are found by their names: not every server lists its files.
        numbers = range(math.ceil(num_rows / array.chunks[0]))
        chunks = [f"{name}/{array.metadata.encode_chunk_key((k, *[0] * (array.ndim - 1)))}" for k in numbers]
        for chunk, found in zip(chunks, folder.read_many(chunks), strict=True):
            if found is not None:
                files[chunk] = _TO_BUFFER(found)
            elif is_whole:
                raise ValueError(f"{chunk.removeprefix(f'{name}/')} is missing")
        return np.asarray(array[:num_rows])
    except DAMAGED as error:
        raise _damaged(folder, name, reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """Return the first line of an error, for the middle of a sentence."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _damaged(folder: Folder, name: str, reason: str) -> StoreError:
    return StoreError(f"{folder.uri}/{name} is damaged ({reason}); tcae verify {folder.uri} says where")


def _view_compressors(spec: StoreSpec) -> Any:
    codec = CODECS[spec.codec]()
    compressor = codec.compressor(np.dtype(spec.dtype).itemsize)
    if not spec.has_checksums or codec.has_checksum:
        return compressor
    return ([] if compressor is None else [compressor]) + [Crc32cCodec()]


def _add_private_array(store: MemoryStore) -> None:
    """Make the private folder an empty array: readers that list a store know it then, and look no further into it."""
    zarr.create_array(
        store,
        name=PRIVATE_FOLDER,
        shape=(0,),
        chunks=(1,),
        dtype="uint8",
        compressors=None,
        dimension_names=("private",),
        attributes={"description": "Files of tcae; this array has no values"},
    )


def _bucketed_metadata() -> dict[str, bytes]:
    """Return the zarr.json files between the root of a store of buckets and its buckets."""
    files: dict[str, Any] = {}
    _add_private_array(MemoryStore(files))
    return {**_metadata_among(files, sealed=True), f"{BUCKETS}/{ROOT}": group_file({}, ())}


def _metadata_among(files: Mapping[str, Any], *, sealed: bool) -> dict[str, bytes]:
    """Return the zarr.json files of arrays among the files of a group."""
    found = {name: data.to_bytes() for name, data in files.items() if name.count("/") == 1}
    return {name: _sealed(data) for name, data in found.items()} if sealed else found


def _sealed(data: bytes) -> bytes:
    metadata = json.loads(data)
    return metadata_file(metadata, metadata.get("attributes", {}))


def side_metadata(folder: Folder, spec: StoreSpec, name: str) -> bytes:
    """Return the zarr.json of a side array as the root has it: a writer that was killed may not have written it.

    Raises OSError if it cannot be read, one of DAMAGED if it is damaged.
    """
    file = f"{name}/zarr.json"
    if name == "captions" and spec.metadata_updates:  # an update may have given the store captions
        (found,) = folder.read_many([file])
        return _naming_chunks(found or array_metadata(spec)[file], spec, name)
    return _naming_chunks(folder.read(file), spec, name)


def _naming_chunks(data: bytes, spec: StoreSpec, array: str) -> bytes:
    """Return the zarr.json of a side array with the names of chunks that the root says."""
    metadata = parse_metadata(data)
    if array not in UPDATED:
        return data
    encoding = {"name": "default", "configuration": {"separator": _separator(spec, array)}}
    return metadata_file({**metadata, "chunk_key_encoding": encoding}, sealed_names(metadata))


def _separator(spec: StoreSpec, array: str) -> str:
    """Return what stands between the parts of a chunk's name: updates take turns, so that none writes over another."""
    return "/" if array in UPDATED and spec.metadata_updates % 2 else "."


def _row_shape(side_array: str) -> tuple[int, ...]:
    """Return the shape of one row of a side array."""
    if side_array == "original_size":
        return (2,)  # height, width
    return (4,) if side_array.startswith("crop") else ()  # left, top, right, bottom
