"""What a store says of itself: the part of its root attributes that is fixed when it is made (format version 1)."""

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from tcae_cli.recipe.choices import MAIN_VIEW, LatentDtype, Precision, Resize
from tcae_cli.store.codecs.registry import CODECS

OK, FAILED, PENDING = 1, 2, 0  # of a row's status

_SHARD_BYTES = 256 * 2**20  # of raw latents of one view, at most
_FEWEST_ROWS, _MOST_ROWS = 16, 4096  # of a shard
_MOST_SHARDS = 64  # aimed at, while a shard has fewer rows than it may have


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class View(_Part):
    """One array of latents: what of each image was encoded."""

    size: int  # pixels, square
    flip: bool  # whether the mirrored image was encoded
    height: int  # latent positions
    width: int


class LatentShape(_Part):
    """What all views share; downsampling is pixels a position."""

    channels: int
    downsampling: int


class EncoderIdentity(_Part):
    """Whose latents these are: `hash` decides, the rest is for people."""

    name: str
    hash: str
    spec: dict[str, Any]
    recipe: dict[str, Any]


class TransformSpec(_Part):
    """How an image became square pixels; the size is each view's own."""

    resize: Resize


class ComputeSpec(_Part):
    """Arithmetic of the encoder; another batch size changes bits of float16."""

    dtype: Precision
    batch_size: int


class SourceIdentity(_Part):
    """What the rows are: `fingerprint` decides, `uri` says where it was when the store was made."""

    uri: str
    count: int
    fingerprint: str
    class_names: list[str]


class Quantisation(_Part):
    """int8 latents: stored value x scale of its channel, with scales from a sample of rows, and what that costs."""

    num_images: int  # in the sample
    quantile: float  # of the absolute values of a channel that 127 stands for
    scale: dict[str, list[float]]  # of each view, [c]
    relative_rmse: dict[str, float]  # of each view: error over the root mean square of the float32 latents
    psnr_float32: float  # dB, mean over the sample's main view
    psnr_int8: float


class StoreSpec(_Part):
    """All that is fixed when a store is made."""

    format_version: Literal[1] = 1
    encoder: EncoderIdentity
    transform: TransformSpec
    compute: ComputeSpec
    latent: LatentShape
    views: dict[str, View]  # by the name of their array, the main one first
    source: SourceIdentity
    dtype: LatentDtype
    quantisation: Quantisation | None = None  # of int8
    codec: str
    rows_per_shard: int
    has_captions: bool
    scaling: Literal["none"] = "none"  # the latents are raw
    tool_versions: dict[str, str]
    created_at: str  # ISO 8601, UTC

    @field_validator("codec")
    @classmethod
    def _is_registered(cls, codec: str) -> str:
        if codec not in CODECS:
            raise ValueError(f"there is no codec {codec}; the codecs are {', '.join(CODECS)}")
        return codec

    @property
    def num_rows(self) -> int:
        """Rows of every array."""
        return self.source.count

    @property
    def num_shards(self) -> int:
        """Shard files of every array."""
        return math.ceil(self.num_rows / self.rows_per_shard)

    @property
    def sizes(self) -> list[int]:
        """Sizes of the views, in pixels, each once, the main one first."""
        return list(dict.fromkeys(view.size for view in self.views.values()))

    @property
    def side_arrays(self) -> dict[str, str]:
        """What is kept beside the latents of each row: array name to data type; `status` is written last."""
        crops = {self.crop_name(size): "int32" for size in self.sizes}
        captions = {"captions": "string"} if self.has_captions else {}
        first = {"keys": "string", "labels": "int64", "content_hash": "uint64", "original_size": "int32"}
        return {**first, **crops, **captions, "status": "uint8"}

    def crop_name(self, size: int) -> str:
        """The array with the part of the original that a view of this size shows."""
        return "crop" if size == self.sizes[0] else f"crop_{size}"

    def sample_shape(self, view: str = MAIN_VIEW) -> tuple[int, int, int]:
        """[c, h, w] of one image's latents."""
        return self.latent.channels, self.views[view].height, self.views[view].width

    def rows_of_shard(self, shard: int) -> range:
        """The rows a shard holds; the last may hold fewer."""
        first = shard * self.rows_per_shard
        return range(first, min(first + self.rows_per_shard, self.num_rows))


def make_views(sizes: list[int], downsampling: int, flip: bool) -> dict[str, View]:
    """`latents` of the first size, `latents_512` of another, each with `..._flip` when asked for."""
    views: dict[str, View] = {}
    for size in sizes:
        name, positions = (f"{MAIN_VIEW}_{size}" if views else MAIN_VIEW), size // downsampling
        for suffix, mirrored in (("", False), ("_flip", True)) if flip else (("", False),):
            views[name + suffix] = View(size=size, flip=mirrored, height=positions, width=positions)
    return views


def rows_per_shard(num_rows: int, sample_bytes: int) -> int:
    """Rows of a shard: a power of two, the unit of commit and of sharing out work (DESIGN section 5)."""
    rows = 2 ** int(math.log2(max(1, num_rows / _MOST_SHARDS)))
    rows = min(max(rows, _FEWEST_ROWS), _MOST_ROWS)
    return min(rows, 2 ** int(math.log2(max(1, _SHARD_BYTES // sample_bytes))))


def differences(store: StoreSpec, wanted: StoreSpec) -> str | None:
    """What keeps a run from continuing a store, in words, the source aside; None when nothing does."""
    same_encoder = store.encoder.hash == wanted.encoder.hash  # whatever the models are called
    pairs = {
        "encoder": (_encoder_words(store), _encoder_words(store if same_encoder else wanted)),
        "--size": (_sizes_words(store), _sizes_words(wanted)),
        "--flip": (_flip_words(store), _flip_words(wanted)),
        "--resize": (store.transform.resize, wanted.transform.resize),
        "--precision": (store.compute.dtype, wanted.compute.dtype),
        "--batch-size": (store.compute.batch_size, wanted.compute.batch_size),
        "--dtype": (store.dtype, wanted.dtype),
        "--codec": (store.codec, wanted.codec),
    }
    found = [f"{name} {old}, not {new}" for name, (old, new) in pairs.items() if old != new]
    return "; ".join(found) or None


def _encoder_words(spec: StoreSpec) -> str:
    return f"{spec.encoder.hash[:12]} ({spec.encoder.name})"


def _sizes_words(spec: StoreSpec) -> str:
    return " ".join(map(str, spec.sizes))


def _flip_words(spec: StoreSpec) -> str:
    return "given" if any(view.flip for view in spec.views.values()) else "absent"
