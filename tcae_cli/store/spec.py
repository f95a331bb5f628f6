"""Defines the part of a store's root attributes that is fixed when the store is made (format versions 1 and 2)."""

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializerFunctionWrapHandler,
    StringConstraints,
    field_validator,
    model_serializer,
)

from tcae_cli.recipe.choices import MAIN_VIEW, Decode, LatentDtype, Precision, Resize
from tcae_cli.store.codecs.registry import CODECS
from tcae_cli.store.generator_input import GeneratorInput

OK, FAILED, PENDING = 1, 2, 0  # of a row's status
# Fields of StoreSpec that stores made before lack.
ADDED_LATER = frozenset({"classes_given", "metadata_updates", "buckets"})

_SHARD_BYTES = 256 * 2**20  # of raw latents of one view, at most
_FEWEST_ROWS, _MOST_ROWS = 16, 4096  # of a shard
_MOST_SHARDS = 64  # aimed at, while a shard has fewer rows than it may have


# Array names are names of folders in the store: none leads out of it, and none is that of another array.
ViewName = Annotated[str, StringConstraints(pattern=rf"^{MAIN_VIEW}(_[0-9]+)?(_flip)?$")]


BucketName = Annotated[str, StringConstraints(pattern="^[1-9][0-9]*x[1-9][0-9]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Sparse(_Part):
    """A part whose fields that are None or False are not written, as stores that were made before lack them."""

    @model_serializer(mode="wrap")
    def _without_absent(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialise(self).items() if value is not None and value is not False}


class View(_Part):
    """One array of latents, of all images at one size, mirrored or not; its crops are square, except in a bucket."""

    size: PositiveInt  # nominal, as --size gives it: the side of a square in pixels, or that a bucket was made for
    flip: bool  # whether the mirrored image was encoded
    height: PositiveInt  # latent positions; x downsampling: pixels
    width: PositiveInt


class LatentShape(_Sparse):
    """The shape that all views share; downsampling is pixels a position."""

    channels: PositiveInt
    downsampling: PositiveInt
    posterior: bool = False  # latents are means of distributions, whose deviations have arrays of their own


class EncoderIdentity(_Sparse):
    """The encoder that made the latents: `hash` decides, the rest is for people."""

    name: str
    hash: str
    spec: dict[str, Any]
    recipe: dict[str, Any]
    generator: GeneratorInput | None = None  # None, which is not written, in earlier stores or where it is not known

    @property
    def generators_take(self) -> GeneratorInput | None:
        """Return what the model's generators take, None where it is not known.

        Earlier stores recorded the configuration of diffusers' models, which the numbers of most are in.
        """
        scale = self.spec.get("scaling_factor") if self.spec.get("library") == "diffusers" else None
        if self.generator is not None or scale is None or self.spec.get("latents_mean") is not None:
            return self.generator
        return GeneratorInput(shift=[self.spec.get("shift_factor") or 0.0], scale=[scale])


class TransformSpec(_Sparse):
    """The way an image became the pixels of a crop; the shape is each view's own."""

    resize: Resize
    decode: Decode = "full"  # as in stores that were made before there was a choice
    min_size: PositiveInt | None = None  # pixels of the shorter side, of images that are encoded; None: any


class CompiledOn(_Part):
    """The machine that compiled the encoder: other GPU models and library versions compute other low-order bits."""

    device: str
    versions: dict[str, str]  # of torch, CUDA and cuDNN

    @property
    def words(self) -> str:
        """Return the device and the versions."""
        return f"{self.device} ({', '.join(f'{name} {version}' for name, version in self.versions.items())})"


class ComputeSpec(_Sparse):
    """Arithmetic of the encoder; another batch size changes bits of float16."""

    dtype: Precision
    batch_size: PositiveInt
    compiled: CompiledOn | None = None  # None, which is not written: eager


class SourceIdentity(_Part):
    """The source of the rows: `fingerprint` decides, `uri` says where it was when the store was made."""

    uri: str
    count: NonNegativeInt
    fingerprint: Annotated[str, StringConstraints(pattern="^[0-9a-f]+$")]  # names the folder of the index
    class_names: list[str]


class Quantisation(_Part):
    """int8 latents: stored value x scale of its channel, with scales from a sample of rows, and what that costs."""

    num_images: int  # in the sample
    quantile: float  # of the absolute values of a channel that 127 stands for
    scale: dict[str, list[float]]  # of each latent array, [c]
    relative_rmse: dict[str, float]  # of each latent array: error over the root mean square of its float32 values
    psnr_float32: float  # dB, mean over the sample's main view
    psnr_int8: float


class Buckets(_Part):
    """The buckets of a store: each is a store by itself, in a folder whose name is its height x width in pixels."""

    step: PositiveInt  # pixels that every height and width is a multiple of
    max_aspect: Annotated[float, Field(ge=1)]
    names: list[BucketName] = []  # of those that hold rows, by height and width


class StoreSpec(_Part):
    """Everything that is fixed when a store is made."""

    format_version: Literal[1, 2] = 2  # a store stays what it was made as
    encoder: EncoderIdentity
    transform: TransformSpec
    compute: ComputeSpec
    latent: LatentShape
    views: dict[ViewName, View]  # by the name of their array, the main one first
    source: SourceIdentity
    dtype: LatentDtype
    quantisation: Quantisation | None = None  # of int8
    codec: str  # of store/codecs/registry.py
    rows_per_shard: PositiveInt
    has_captions: bool
    classes_given: bool = False  # the user gave the class names: a source that is appended has no others
    buckets: Buckets | None = None  # then the arrays are theirs, and the views here have the shape of a square
    metadata_updates: int = 0  # of labels and captions; their chunks lie in files of other names after each
    scaling: Literal["none"] = "none"  # the latents are raw
    tool_versions: dict[str, str]
    created_at: str  # ISO 8601, UTC

    @field_validator("codec")
    @classmethod
    def _is_registered(cls, codec: str) -> str:
        if codec not in CODECS:
            raise ValueError(f"there is no codec {codec}; the codecs are {', '.join(CODECS)}")
        return codec

    @field_validator("views")
    @classmethod
    def _has_the_main_view(cls, views: dict[str, View]) -> dict[str, View]:
        if MAIN_VIEW not in views:
            raise ValueError(f"there is no view {MAIN_VIEW}")
        return views

    @property
    def has_checksums(self) -> bool:
        """Return whether every chunk, record and zarr.json carries a checksum that readers compare."""
        return self.format_version > 1

    @property
    def num_rows(self) -> int:
        """Return the number of rows of every array."""
        return self.source.count

    @property
    def latent_arrays(self) -> dict[str, View]:
        """Return the views by name and, with a posterior, the arrays of their deviations, each with its view."""
        return {array: view for name, view in self.views.items() for array in self.arrays_of(name)}

    def arrays_of(self, view: str) -> list[str]:
        """Return the names of the arrays of a view: its own and, with a posterior, that of the deviations."""
        return [view, deviations_of(view)] if self.latent.posterior else [view]

    @property
    def num_shards(self) -> int:
        """Return the number of shards of every array."""
        return math.ceil(self.num_rows / self.rows_per_shard)

    @property
    def sizes(self) -> list[int]:
        """Return the distinct nominal sizes of the views, in pixels, that of the main view first."""
        return sizes_of(self.views)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Return the height and width, in pixels, of the crops of each size, in the order of `sizes`."""
        pixels = self.latent.downsampling
        of_size = {view.size: (view.height * pixels, view.width * pixels) for view in self.views.values()}
        return list(of_size.values())

    @property
    def side_arrays(self) -> dict[str, str]:
        """Return the data types, by name, of the arrays beside the latents; `status` is last, as it is written last."""
        crops = {self.crop_name(size): "int32" for size in self.sizes}
        captions = {"captions": "string"} if self.has_captions else {}
        first = {"keys": "string", "labels": "int64", "content_hash": "uint64", "original_size": "int32"}
        return {**first, **crops, **captions, "status": "uint8"}

    def crop_name(self, size: int) -> str:
        """Return the name of the array that holds which part of the original a view of this size shows."""
        return "crop" if size == self.sizes[0] else f"crop_{size}"

    def dimension_names(self, array: str) -> tuple[str, ...] | None:
        """Return the names of the dimensions of a latent or side array; height and width differ between sizes."""
        if view := self.latent_arrays.get(array):
            size = view.size
            suffix = "" if size == self.sizes[0] or not self.has_checksums else f"_{size}"
            return "row", "channel", f"height{suffix}", f"width{suffix}"
        if not self.has_checksums:
            return None
        if array == "original_size":
            return "row", "extent"
        return ("row", "edge") if array.startswith("crop") else ("row",)

    def sample_shape(self, array: str = MAIN_VIEW) -> tuple[int, int, int]:
        """Return the shape of one sample's latents, or of their deviations, [c, h, w]."""
        view = self.latent_arrays[array]
        return self.latent.channels, view.height, view.width

    def rows_of_shard(self, shard: int) -> range:
        """Return the rows of a shard; the last shard may hold fewer."""
        first = shard * self.rows_per_shard
        return range(first, min(first + self.rows_per_shard, self.num_rows))


def deviations_of(view: str) -> str:
    """Return the name of the array of the standard deviations of a view's latents."""
    return f"{view}_std"


def rows_per_shard(num_rows: int, sample_bytes: int) -> int:
    """Return the number of rows of a shard, a power of two; shards are the unit of commit and of dividing work.

    This makes about 64 shards of 16 to 4,096 rows each, of at most 256 MiB of raw latents.
    """
    rows = 2 ** int(math.log2(max(1, num_rows / _MOST_SHARDS)))
    rows = min(max(rows, _FEWEST_ROWS), _MOST_ROWS)
    return min(rows, 2 ** int(math.log2(max(1, _SHARD_BYTES // sample_bytes))))


def sizes_of(views: dict[str, View]) -> list[int]:
    """Return the distinct nominal sizes of these views, in pixels, that of the first one first."""
    return list(dict.fromkeys(view.size for view in views.values()))
