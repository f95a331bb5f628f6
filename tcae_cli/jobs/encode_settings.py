"""The settings that a run encodes with, and whether a store can be continued with them on this machine."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import torch

from tcae_cli import __version__
from tcae_cli.autoencoders.compiled import compiling_device
from tcae_cli.autoencoders.families import ModelCard
from tcae_cli.errors import StoreError, UsageError
from tcae_cli.images.buckets import bucket_shapes, rows_of_stores
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import default_precision
from tcae_cli.sources.source import Source
from tcae_cli.sources.spelling import shown
from tcae_cli.store.buckets import existing_stores
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.record import RECORDS_FOLDER
from tcae_cli.store.settings import StoreSettings, make_views
from tcae_cli.store.spec import (
    Buckets,
    CompiledOn,
    ComputeSpec,
    EncoderIdentity,
    LatentShape,
    SourceIdentity,
    StoreSpec,
    TransformSpec,
)

_BUCKET_STEP = 64  # pixels, at least, where none is given
_TOOLS = ("torch", "timm", "pillow", "numpy", "zarr", "numcodecs")


def settings_of(request: EncodeRequest, card: ModelCard, device: torch.device) -> StoreSettings:
    """Return how this run encodes.

    Raises UsageError for a size that latents do not fit into, where a model that cannot be compiled is to be, and where
    deviations are to be stored of a model that has none.
    """
    sizes = list(dict.fromkeys(request.sizes or (card.image_size,)))
    for size in sizes:
        card.refuse_size(size)
    if request.dtype == "int8" and not card.has_decoder:
        raise UsageError(
            f"--dtype int8 measures what it costs on decoded images, and {card.name} has no decoder; use float16"
        )
    if request.posterior:
        card.refuse_without_posterior()
    decode = request.decode or ("full" if request.resize == "adm" else "draft")
    library = [card.spec["library"]] if "library" in card.spec else []  # of a model that is not one of ours
    if request.compile and not card.has_blocks:
        raise UsageError(f"--compile works on models of tcae, and {card.name} is not one; omit --compile")
    is_compiled = request.compile if request.compile is not None else device.type == "cuda" and card.has_blocks
    device_name, versions = compiling_device(device)
    machine = CompiledOn(device=device_name, versions=versions)
    return StoreSettings(
        encoder=EncoderIdentity(
            name=card.name, hash=card.encoder_hash, spec=card.spec, recipe=card.recipe, generator=card.generator
        ),
        transform=TransformSpec(resize=request.resize, decode=decode, min_size=request.min_size),
        decode=request.decode,
        compute=ComputeSpec(
            dtype=request.precision or default_precision(device),
            batch_size=request.batch_size,
            compiled=machine if is_compiled else None,
        ),
        compile=request.compile,
        machine=machine,
        latent=LatentShape(channels=card.latent_channels, downsampling=card.downsampling, posterior=request.posterior),
        views=make_views(sizes, card.downsampling, request.flip),
        dtype=request.dtype,
        codec=request.codec,
        tool_versions={"tcae": __version__} | {name: version(name) for name in (*_TOOLS, *library)},
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        classes_given=request.classes is not None,
        buckets=_buckets_of(request, sizes, card),
    )


def _buckets_of(request: EncodeRequest, sizes: Sequence[int], card: ModelCard) -> Buckets | None:
    """Return the buckets that a run asks for, without names. Raises UsageError if they cannot be."""
    if not request.buckets:
        return None
    if len(sizes) > 1:
        raise UsageError("--buckets encodes each image at one size; give --size once, or use a store for each size")
    if card.is_of_one_size:
        raise UsageError(f"--buckets gives images many shapes, and {card.name} takes one alone; omit --buckets")
    downsampling = card.downsampling
    step = request.bucket_step or math.ceil(_BUCKET_STEP / downsampling) * downsampling
    if step % downsampling:
        nearest = max(1, round(step / downsampling)) * downsampling
        raise UsageError(f"--bucket-step {step} is not a multiple of {downsampling}, a latent's pixels; try {nearest}")
    bucket_shapes(sizes[0], step, request.max_aspect)
    return Buckets(step=step, max_aspect=request.max_aspect)


def spec_with(request: EncodeRequest, source: Source, store: StoreHandle | None, settings: StoreSettings) -> StoreSpec:
    """Return the spec of the store, or else of a new one, once it holds all of a source; int8 may lack its scales."""
    identity = identity_of(source)
    if store:
        compute = settings.compute_of(store.spec, has_rows=has_rows(request, store))
        return store.spec.model_copy(update={"source": identity, "compute": compute})
    spec = settings.new_store(identity, source.has_captions)
    if spec.buckets is None:
        return spec
    names = list(rows_of_stores(source, spec))
    return spec.model_copy(update={"buckets": spec.buckets.model_copy(update={"names": names})})


def identity_of(source: Source) -> SourceIdentity:
    """Return what a store records of its source."""
    return SourceIdentity(
        uri=shown(source.uri), count=len(source), fingerprint=source.fingerprint, class_names=list(source.class_names)
    )


def has_rows(request: EncodeRequest, store: StoreHandle) -> bool:
    """Return whether a row of a store is committed, or another part may be encoding one."""
    return request.num_parts > 1 or any(each.folder.sizes(RECORDS_FOLDER) for each in existing_stores(store).values())


def check_settings(
    request: EncodeRequest, store: StoreHandle, settings: StoreSettings, progress: Progress, *, has_rows: bool = True
) -> None:
    """Raise StoreError if a store was made with settings other than these.

    If its encoder was compiled on another kind of machine than this, say so, or raise StoreError with --strict. A store
    without rows may still take another batch size, be compiled or not, and be compiled here.
    """
    uri = store.folder.uri
    if differing := settings.differences(store.spec, has_rows=has_rows):
        raise StoreError(
            f"{uri} cannot be continued: it was made with {differing}; "
            f"repeat the command it was made with, or encode into another store"
        )
    begun, here = store.spec.compute.compiled, settings.machine
    is_finished = store.is_complete and not (request.append or request.retry_failed)
    if begun is None or begun == here or is_finished or not has_rows:
        return
    difference = f"the encoder of {uri} was compiled on {begun.words}, and this machine is {here.words}"
    if request.strict:
        raise StoreError(f"{difference}; resume where it was begun, or omit --strict")
    if not distributed.local_rank():  # one rank of each machine
        progress.say(f"{difference}, so the latents encoded here differ in low-order bits; --strict refuses this")
