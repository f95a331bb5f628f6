"""The store as data: what its root attributes say, and the arrays it holds (format version 1)."""

import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from pydantic import BaseModel, ConfigDict, ValidationError
from zarr.codecs import BloscCodec, ZstdCodec

from tcae_cli.errors import StoreError
from tcae_cli.runtime.files import disk_errors, sync, write_atomic

PRIVATE_FOLDER = ".tcae"
INDEX_FOLDER = f"{PRIVATE_FOLDER}/index"
SIDE_ARRAYS = ("keys", "labels", "content_hash", "original_size", "crop")  # with captions, when there are any
PENDING, OK, FAILED = 0, 1, 2  # of a row's status

Codec = Literal["zstd", "none", "lz4-bitshuffle"]

_ROOT = "zarr.json"
_SHARD_BYTES = 256 * 2**20  # of raw latents, at most
_FEWEST_ROWS, _MOST_ROWS = 16, 4096  # of a shard
_MOST_SHARDS = 64  # aimed at, while a shard has fewer rows than it may have


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LatentShape(_Part):
    """Shape of one image's latents; downsampling is pixels a position."""

    channels: int
    height: int
    width: int
    downsampling: int


class EncoderIdentity(_Part):
    """Whose latents these are: `hash` decides, the rest is for people."""

    name: str
    hash: str
    spec: dict[str, Any]
    recipe: dict[str, Any]


class TransformSpec(_Part):
    """How an image became `size` x `size` pixels."""

    size: int
    resize: Literal["torch", "adm"]


class ComputeSpec(_Part):
    """Arithmetic of the encoder; another batch size changes bits of float16."""

    dtype: Literal["bf16", "fp32"]
    batch_size: int


class SourceIdentity(_Part):
    """What the rows are: `fingerprint` decides, `uri` says where it was when the store was made."""

    uri: str
    count: int
    fingerprint: str
    class_names: list[str]


class StoreSpec(_Part):
    """All that is fixed when a store is made."""

    format_version: Literal[1] = 1
    encoder: EncoderIdentity
    transform: TransformSpec
    compute: ComputeSpec
    latent: LatentShape
    source: SourceIdentity
    dtype: Literal["float16", "float32"]
    codec: Codec
    rows_per_shard: int
    has_captions: bool
    scaling: Literal["none"] = "none"  # the latents are raw
    tool_versions: dict[str, str]
    created_at: str  # ISO 8601, UTC

    @property
    def num_rows(self) -> int:
        """Rows of every array."""
        return self.source.count

    @property
    def num_shards(self) -> int:
        """Shard files of every array."""
        return math.ceil(self.num_rows / self.rows_per_shard)

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """[c, h, w] of one image's latents."""
        return self.latent.channels, self.latent.height, self.latent.width

    def rows_of_shard(self, shard: int) -> range:
        """The rows a shard holds; the last may hold fewer."""
        first = shard * self.rows_per_shard
        return range(first, min(first + self.rows_per_shard, self.num_rows))


def rows_per_shard(num_rows: int, sample_bytes: int) -> int:
    """Rows of a shard: a power of two, the unit of commit and of sharing out work (DESIGN section 5)."""
    rows = 2 ** int(math.log2(max(1, num_rows / _MOST_SHARDS)))
    rows = min(max(rows, _FEWEST_ROWS), _MOST_ROWS)
    return min(rows, 2 ** int(math.log2(max(1, _SHARD_BYTES // sample_bytes))))


def is_store(path: Path) -> bool:
    """Whether a store of ours is at this path. Raises StoreError if something else is there, before it is touched."""
    if (path / _ROOT).is_file():
        read_spec(path)
        return True
    if not path.exists():
        return False
    if not path.is_dir():
        raise StoreError(f"{path} exists and is not a store of latents; name another path")
    # A creation that was killed has our folder and perhaps some arrays, but no root.
    found = {entry.name for entry in path.iterdir()}
    ours = {PRIVATE_FOLDER, "latents", "status", "captions", *SIDE_ARRAYS}
    if found and (PRIVATE_FOLDER not in found or found - ours):
        raise StoreError(f"{path} exists, is not a store of latents and is not empty; name another path")
    return False


def read_spec(path: Path) -> StoreSpec:
    """What a store says of itself. Raises StoreError if it is no store of ours, or of another version."""
    attributes = read_attributes(path)
    version = attributes.get("format_version")
    if version != 1:
        found = "a Zarr group of something else" if version is None else f"of format version {version}"
        raise StoreError(f"{path} is {found}, not a store this tcae reads; name another path")
    try:
        return StoreSpec.model_validate({name: attributes[name] for name in StoreSpec.model_fields})
    except (KeyError, ValidationError) as error:
        raise StoreError(f"{path}/{_ROOT} is damaged: {str(error).splitlines()[0]}; restore it from a copy") from error


def read_attributes(path: Path) -> dict[str, Any]:
    """The root attributes. Raises StoreError if there is no Zarr group at this path."""
    try:
        root = json.loads((path / _ROOT).read_bytes())
        attributes: dict[str, Any] = root["attributes"] if root["node_type"] == "group" else {}
    except OSError as error:
        raise StoreError(f"{path} is not a store of latents: {path / _ROOT}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}/{_ROOT} is not the metadata of a Zarr group; name another path") from error
    return attributes


def is_complete(path: Path) -> bool:
    """Whether a store has all its rows, its statistics and its failures table."""
    return bool(read_attributes(path)["complete"])


def write_attributes(path: Path, attributes: dict[str, Any]) -> None:
    """Make `path` a Zarr group with these attributes, in one atomic step."""
    root = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    write_atomic(path / _ROOT, json.dumps(root, indent=2, ensure_ascii=False, allow_nan=False).encode())


def create_store(path: Path, spec: StoreSpec) -> None:
    """Make the arrays, empty, and last the root that makes them a store."""
    n, rows = spec.num_rows, spec.rows_per_shard
    strings = ("keys", "captions") if spec.has_captions else ("keys",)
    with disk_errors(path):
        zarr.create_array(
            path / "latents",
            shape=(n, *spec.sample_shape),
            dtype=spec.dtype,
            chunks=(1, *spec.sample_shape),
            shards=(rows, *spec.sample_shape),
            compressors=_compressor(spec.codec, np.dtype(spec.dtype).itemsize),
            fill_value=math.nan,  # a row that is not ok is loud
            chunk_key_encoding={"name": "default", "separator": "."},  # one folder, one fsync
            dimension_names=("row", "channel", "height", "width"),
            overwrite=True,
        )
        for name in strings:
            _create_side_array(path / name, (n,), "string", rows, fill_value="")
        _create_side_array(path / "labels", (n,), "int64", rows, fill_value=-1)
        _create_side_array(path / "content_hash", (n,), "uint64", rows)
        _create_side_array(path / "status", (n,), "uint8", rows, fill_value=PENDING)
        _create_side_array(path / "original_size", (n, 2), "int32", rows)
        _create_side_array(path / "crop", (n, 4), "int32", rows)
        for metadata in path.glob("*/zarr.json"):
            sync(metadata)
            sync(metadata.parent)
    write_attributes(path, {**spec.model_dump(mode="json"), "statistics": None, "complete": False})


def differences(store: StoreSpec, wanted: StoreSpec) -> str | None:
    """What keeps a run from continuing a store, in words; None when nothing does."""
    pairs = {
        "encoder": (_encoder_words(store), _encoder_words(wanted)),
        "--size": (store.transform.size, wanted.transform.size),
        "--resize": (store.transform.resize, wanted.transform.resize),
        "--precision": (store.compute.dtype, wanted.compute.dtype),
        "--batch-size": (store.compute.batch_size, wanted.compute.batch_size),
        "--dtype": (store.dtype, wanted.dtype),
        "--codec": (store.codec, wanted.codec),
        "source": (_source_words(store), _source_words(wanted)),
    }
    found = [f"{name} {old}, not {new}" for name, (old, new) in pairs.items() if old != new]
    return "; ".join(found) or None


def _encoder_words(spec: StoreSpec) -> str:
    return f"{spec.encoder.hash[:12]} ({spec.encoder.name})"


def _source_words(spec: StoreSpec) -> str:
    return f"with {spec.source.count:,} images and fingerprint {spec.source.fingerprint[:12]}"


def _compressor(codec: Codec, itemsize: int) -> ZstdCodec | BloscCodec | None:
    match codec:
        case "zstd":
            return ZstdCodec(level=1, checksum=True)
        case "lz4-bitshuffle":
            return BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=itemsize)
        case "none":
            return None


def _create_side_array(path: Path, shape: tuple[int, ...], dtype: str, rows: int, fill_value: Any = 0) -> None:
    zarr.create_array(
        path,
        shape=shape,
        dtype=dtype,
        chunks=(rows, *shape[1:]),
        fill_value=fill_value,
        chunk_key_encoding={"name": "default", "separator": "."},
        overwrite=True,
    )
