"""Where things are in a store, its root, and its arrays."""

import json
import math
from typing import Any

import numpy as np
import zarr
from pydantic import ValidationError
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from tcae_cli.errors import DiskError, StoreError
from tcae_cli.runtime.folder import Folder
from tcae_cli.store.codecs.registry import CODECS
from tcae_cli.store.spec import PENDING, StoreSpec, View

PRIVATE_FOLDER = ".tcae"
INDEXES = f"{PRIVATE_FOLDER}/index"
ROOT = "zarr.json"

_FILL_VALUES: dict[str, Any] = {"float16": math.nan, "float32": math.nan, "int8": -128}  # loud where a row is not ok
_SIDE_FILL_VALUES: dict[str, Any] = {"string": "", "int64": -1, "uint8": PENDING}


def index_folder(spec: StoreSpec) -> str:
    """Where the index of a store's source is."""
    return f"{INDEXES}/{spec.source.fingerprint}"


def is_store(folder: Folder) -> bool:
    """Whether a store of ours is in this folder. Raises StoreError if something else is, before it is touched."""
    try:
        folder.read(ROOT)
    except NotADirectoryError as error:
        raise StoreError(f"{folder.uri} exists and is not a store of latents; name another path") from error
    except FileNotFoundError:
        # A creation that was killed has our private folder, but no root.
        if any(not name.startswith(f"{PRIVATE_FOLDER}/") for name in folder.sizes()):
            raise StoreError(
                f"{folder.uri} exists, is not a store of latents and is not empty; name another path"
            ) from None
        return False
    read_spec(folder)
    return True


def read_spec(folder: Folder) -> StoreSpec:
    """What a store says of itself. Raises StoreError if it is no store of ours, or of another version."""
    attributes = read_attributes(folder)
    version = attributes.get("format_version")
    if version != 1:
        found = "a Zarr group of something else" if version is None else f"of format version {version}"
        raise StoreError(f"{folder.uri} is {found}, not a store this tcae reads (version 1); name another path")
    try:
        return StoreSpec.model_validate({name: attributes[name] for name in StoreSpec.model_fields})
    except (KeyError, ValidationError) as error:
        raise StoreError(
            f"{folder.uri}/{ROOT} is damaged: {str(error).splitlines()[0]}; restore it from a copy"
        ) from error


def read_attributes(folder: Folder) -> dict[str, Any]:
    """The root attributes. Raises StoreError if there is no Zarr group at this path."""
    try:
        root = json.loads(folder.read(ROOT))
        attributes: dict[str, Any] = root["attributes"] if root["node_type"] == "group" else {}
    except DiskError:  # an OSError too, with its own sentence
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"{folder.uri} is not a store of latents: {folder.uri}/{ROOT}: {reason}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder.uri}/{ROOT} is not the metadata of a Zarr group; name another path") from error
    return attributes


def is_complete(folder: Folder) -> bool:
    """Whether a store has all its rows, its statistics and its failures table."""
    return bool(read_attributes(folder)["complete"])


def write_attributes(folder: Folder, attributes: dict[str, Any]) -> None:
    """Make these the root attributes, in one step."""
    folder.write({ROOT: group_metadata(attributes)})


def group_metadata(attributes: dict[str, Any]) -> bytes:
    """The zarr.json of a group."""
    root = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(root, indent=2, ensure_ascii=False, allow_nan=False).encode()


def create_store(folder: Folder, spec: StoreSpec) -> None:
    """Make a store, with all rows pending, unless another process has made one here meanwhile."""
    attributes = {**spec.model_dump(mode="json"), "statistics": None, "complete": False, "generation": 0}
    folder.create(ROOT, group_metadata(attributes))
    fit_arrays(folder)


def fit_arrays(folder: Folder) -> None:
    """Give the store the arrays its root describes: those that are missing, and more rows to those that are short.

    Whoever opens a store for writing does this, so a creation or an append that was killed goes on.
    """
    spec = read_spec(folder)
    wanted = array_metadata(spec)
    found = dict(zip(wanted, folder.read_many(list(wanted)), strict=True))
    # Only the shape of an array that is there may change: its chunks are written as its metadata says.
    changed = {name: _reshaped(old, wanted[name]) if old else wanted[name] for name, old in found.items()}
    if changes := {name: data for name, data in changed.items() if data != found[name]}:
        folder.write(changes)


def read_array(folder: Folder, name: str) -> np.ndarray:
    """All values of an array that is small: not of latents. Raises what zarr raises where it is missing or damaged."""
    names = list(folder.sizes(name))
    to_buffer = default_buffer_prototype().buffer.from_bytes
    found = zip(names, folder.read_many(names), strict=True)
    # Not by zarr from the object store itself: it would leave a connection of its own open.
    files = {file: to_buffer(data) for file, data in found if data is not None}
    return np.asarray(zarr.open_array(MemoryStore(files), path=name, mode="r")[:])


def shard_file(spec: StoreSpec, array: str, shard: int) -> str:
    """The name of a shard's file in an array: its position along each axis, with "." between."""
    dimensions = 4 if array in spec.views else 2 if _columns(array) else 1
    return f"{array}/c.{shard}" + ".0" * (dimensions - 1)


def array_metadata(spec: StoreSpec) -> dict[str, bytes]:
    """The zarr.json of every array, by file name."""
    files: dict[str, Any] = {}
    store, n, rows = MemoryStore(files), spec.num_rows, spec.rows_per_shard
    for name, view in spec.views.items():
        shape = spec.sample_shape(name)
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
            attributes=_view_attributes(spec, name, view),
        )
    for name, dtype in spec.side_arrays.items():
        columns = _columns(name)
        zarr.create_array(
            store,
            name=name,
            shape=(n, *columns),
            dtype=dtype,
            chunks=(rows, *columns),
            fill_value=_SIDE_FILL_VALUES.get(dtype, 0),
            chunk_key_encoding={"name": "default", "separator": "."},
        )
    return {name: data.to_bytes() for name, data in files.items() if name.count("/") == 1}


def _view_attributes(spec: StoreSpec, name: str, view: View) -> dict[str, Any]:
    scale = {"scale": spec.quantisation.scale[name]} if spec.quantisation else {}  # times the stored value, a channel
    return {"size": view.size, "flip": view.flip, **scale}


def _columns(name: str) -> tuple[int, ...]:
    """Shape of a row of a side array."""
    if name == "original_size":
        return (2,)  # height, width
    return (4,) if name.startswith("crop") else ()  # left, top, right, bottom


def _reshaped(old: bytes, wanted: bytes) -> bytes:
    metadata, shape = json.loads(old), json.loads(wanted)["shape"]
    if metadata["shape"] == shape:
        return old
    return json.dumps({**metadata, "shape": shape}, indent=2).encode()
