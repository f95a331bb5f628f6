"""Names the files of a store, and makes the metadata of its group and its arrays.

The format is specified in docs/stores.md.
"""

import json
import math
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from tcae_cli.runtime.folder import Folder
from tcae_cli.store.codecs.registry import CODECS
from tcae_cli.store.quantise import FILL_VALUE
from tcae_cli.store.spec import PENDING, StoreSpec

PRIVATE_FOLDER = ".tcae"
INDEXES = f"{PRIVATE_FOLDER}/index"
ROOT = "zarr.json"

# Rows that are not ok have values that no computation overlooks.
_FILL_VALUES: dict[str, Any] = {"float16": math.nan, "float32": math.nan, "int8": FILL_VALUE}
_SIDE_FILL_VALUES: dict[str, Any] = {"string": "", "int64": -1, "uint8": PENDING}


def index_folder(spec: StoreSpec) -> str:
    """Return the name of the folder with the index of a store's source."""
    return f"{INDEXES}/{spec.source.fingerprint}"


def shard_file(spec: StoreSpec, array: str, shard: int) -> str:
    """Return the name of a shard's file in an array: its position along each axis, with "." between."""
    dimensions = 4 if array in spec.views else 1 + len(_row_shape(array))
    return f"{array}/c.{shard}" + ".0" * (dimensions - 1)


def group_metadata(attributes: dict[str, Any]) -> bytes:
    """Return the zarr.json of a group with these attributes, as UTF-8."""
    root = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(root, indent=2, ensure_ascii=False, allow_nan=False).encode()


def array_metadata(spec: StoreSpec) -> dict[str, bytes]:
    """Return the zarr.json of each of a store's views and side arrays, by file name."""
    files: dict[str, Any] = {}
    store, n, rows = MemoryStore(files), spec.num_rows, spec.rows_per_shard
    for name, view in spec.views.items():
        shape = spec.sample_shape(name)
        scale = {"scale": spec.quantisation.scale[name]} if spec.quantisation else {}  # of each channel's int8 step
        zarr.create_array(
            store,
            name=name,
            shape=(n, *shape),
            dtype=spec.dtype,
            chunks=(1, *shape),
            shards=(rows, *shape),
            compressors=CODECS[spec.codec]().compressor(np.dtype(spec.dtype).itemsize),
            fill_value=_FILL_VALUES[spec.dtype],
            chunk_key_encoding={"name": "default", "separator": "."},  # one folder, one fsync
            dimension_names=("row", "channel", "height", "width"),
            attributes={"size": view.size, "flip": view.flip, **scale},
        )
    for name, dtype in spec.side_arrays.items():
        zarr.create_array(
            store,
            name=name,
            shape=(n, *_row_shape(name)),
            dtype=dtype,
            chunks=(rows, *_row_shape(name)),
            fill_value=_SIDE_FILL_VALUES.get(dtype, 0),
            chunk_key_encoding={"name": "default", "separator": "."},
        )
    return {name: data.to_bytes() for name, data in files.items() if name.count("/") == 1}


def read_array(folder: Folder, name: str) -> np.ndarray:
    """Return all values of a small array, not one of latents.

    Raises OSError, ValueError, KeyError or RuntimeError, as zarr does, for an array that is missing or damaged.
    """
    names = list(folder.sizes(name))
    to_buffer = default_buffer_prototype().buffer.from_bytes
    found = zip(names, folder.read_many(names), strict=True)
    # zarr does not read the object store itself: it would leave a connection of its own open.
    files = {file: to_buffer(data) for file, data in found if data is not None}
    return np.asarray(zarr.open_array(MemoryStore(files), path=name, mode="r")[:])


def _row_shape(side_array: str) -> tuple[int, ...]:
    """Return the shape of one row of a side array."""
    if side_array == "original_size":
        return (2,)  # height, width
    return (4,) if side_array.startswith("crop") else ()  # left, top, right, bottom
