"""`tcae encode-dataset`: a source of images in, a store of latents out; repeating it goes on where it stopped."""

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tcae_cli.autoencoders.by_name import read_card
from tcae_cli.autoencoders.families import ModelCard
from tcae_cli.errors import StoreError, UsageError
from tcae_cli.images.partition import shards_of_part, shards_of_rank
from tcae_cli.jobs.encode_shards import ShardsReport, encode_shards
from tcae_cli.jobs.encode_source import open_store_source, publish_index
from tcae_cli.jobs.quantisation import measure_quantisation
from tcae_cli.reports.encode import EncodeReport, EncodeRequest
from tcae_cli.reports.failure import Failure
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import choose_device, default_precision
from tcae_cli.runtime.folder import Folder, open_folder
from tcae_cli.sources.source import load_source
from tcae_cli.store import layout
from tcae_cli.store.commit import (
    append_rows,
    clear_leftovers,
    finalise,
    remove_old_indexes,
    reopen_failed,
    reopen_unless_whole,
)
from tcae_cli.store.lease import Lease, Place, join_store
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.spec import (
    ComputeSpec,
    EncoderIdentity,
    LatentShape,
    SourceIdentity,
    StoreSpec,
    TransformSpec,
    differences,
    make_views,
    rows_per_shard,
)
from tcae_cli.store.writer import StoreWriter

_FAILURES_SHOWN = 10
_ITEM_BYTES = {"float16": 2, "float32": 4, "int8": 1}
_TOOLS = ("tcae", "torch", "timm", "pillow", "numpy", "zarr", "numcodecs")


def encode_dataset(request: EncodeRequest, progress: Progress) -> EncodeReport:
    """Encode every row of the source that the store does not hold yet, and finish the store after the last.

    Every rank of a launch, and every part, calls this. Each encodes its own shards; whichever finds all committed
    finishes the store. Raises a TcaeError for a source, model or store that cannot work; what is committed stays.
    """
    card = read_card(request.model)
    device = choose_device(request.device, distributed.local_rank())
    folder, place = open_folder(request.store), _place(request)
    _sizes(request, card)  # what cannot work is refused before anything is written
    layout.is_store(folder)

    with join_store(folder, place) as lease, TemporaryDirectory() as scratch:
        if place.is_leader:
            _make_ready(request, card, device, folder, lease, Path(scratch), progress)
            lease.announce_ready()
        else:
            lease.wait_for_leader()
        spec = layout.read_spec(folder)
        _refuse_differences(folder, spec, _describe(request, card, device, spec.source, spec.has_captions, spec))
        was_complete = layout.is_complete(folder)

        source = load_source(folder.fetch(layout.index_folder(spec), Path(scratch)))
        mine = shards_of_rank(_shards(request, spec), distributed.rank(), distributed.world_size())
        encoded = encode_shards(request, StoreWriter(folder), source, mine, device, lease.check, progress)

        lease.refresh()
        lease.check()
        finished = not was_complete and finalise(folder)
    return _report(request, folder, encoded, decides=finished or (was_complete and place.is_leader))


def _place(request: EncodeRequest) -> Place:
    """Ranks of a launch share its name; parts share a store, and each is led by its own rank 0."""
    rank, world_size = distributed.rank(), distributed.world_size()
    if request.num_parts == 1:
        return Place(distributed.launch_id(), str(rank), "0", world_size > 1)
    return Place(f"parts-{request.num_parts}", f"{request.part}-{rank}", f"{request.part}-0", world_size > 1)


def _shards(request: EncodeRequest, spec: StoreSpec) -> range:
    return shards_of_part(spec.num_shards, request.part, request.num_parts)


def _make_ready(
    request: EncodeRequest,
    card: ModelCard,
    device: torch.device,
    folder: Folder,
    lease: Lease,
    scratch: Path,
    progress: Progress,
) -> None:
    """Make the store, or see that what is there was made the same way from the same images."""
    clear_leftovers(folder, lease.live_owners)
    found = layout.read_spec(folder) if layout.is_store(folder) else None
    if found:  # before the source is scanned
        _refuse_differences(folder, found, _describe(request, card, device, found.source, found.has_captions, found))
    index = open_store_source(request, folder, found, scratch, progress)
    source = load_source(index)
    identity = SourceIdentity(
        uri=source.uri, count=len(source), fingerprint=source.fingerprint, class_names=list(source.class_names)
    )
    spec = _describe(request, card, device, identity, source.has_captions, found)
    if found is None and request.dtype == "int8":
        spec = measure_quantisation(request, spec, source, device, progress)
    publish_index(folder, index, layout.index_folder(spec))
    if found is None:
        layout.create_store(folder, spec)
        _refuse_another_source(folder, {identity.fingerprint})
    else:
        _refuse_another_source(folder, {identity.fingerprint, found.source.fingerprint})
        reopen_unless_whole(folder)
        if identity.fingerprint != found.source.fingerprint:
            append_rows(folder, identity)
        layout.fit_arrays(folder)
    if request.num_parts == 1:  # other parts may be about to name theirs
        remove_old_indexes(folder)
    if found and request.retry_failed and (count := reopen_failed(folder, _shards(request, spec))):
        progress.say(f"{count:,} failed rows are tried again")


def _refuse_another_source(folder: Folder, fingerprints: set[str]) -> None:
    """Raise StoreError if another part has given the store other images while this one looked through its own."""
    if layout.read_spec(folder).source.fingerprint not in fingerprints:
        raise StoreError(
            f"{folder.uri} was given other images by another part meanwhile; give all parts one source, and repeat"
        )


def _describe(
    request: EncodeRequest,
    card: ModelCard,
    device: torch.device,
    source: SourceIdentity,
    has_captions: bool,
    found: StoreSpec | None,
) -> StoreSpec:
    """The store this request makes; of one that is there, what was fixed when it was made stays."""
    views = make_views(_sizes(request, card), card.downsampling, request.flip)
    largest = max(view.height * view.width for view in views.values())
    sample_bytes = card.latent_channels * largest * _ITEM_BYTES[request.dtype]
    rows = found.rows_per_shard if found else rows_per_shard(source.count, sample_bytes)
    return StoreSpec(
        encoder=EncoderIdentity(name=card.name, hash=card.encoder_hash, spec=card.spec, recipe=card.recipe),
        transform=TransformSpec(resize=request.resize),
        compute=ComputeSpec(
            dtype=request.precision or default_precision(device),
            batch_size=min(request.batch_size, rows),  # batches do not cross shards
        ),
        latent=LatentShape(channels=card.latent_channels, downsampling=card.downsampling),
        views=views,
        source=source,
        dtype=request.dtype,
        codec=request.codec,
        rows_per_shard=rows,
        has_captions=found.has_captions if found else has_captions,
        tool_versions={name: version(name) for name in (*_TOOLS, *_library(card))},
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _library(card: ModelCard) -> list[str]:
    """Whose model it is, unless it is one of ours."""
    return [card.spec["library"]] if "library" in card.spec else []


def _sizes(request: EncodeRequest, card: ModelCard) -> list[int]:
    """The sizes asked for, each once. Raises UsageError for one that latents do not fit into."""
    sizes = list(dict.fromkeys(request.sizes or (card.image_size,)))
    for size in sizes:
        if size % card.downsampling:
            nearest = max(1, round(size / card.downsampling)) * card.downsampling
            raise UsageError(
                f"--size {size} is not a multiple of {card.downsampling}, a latent's pixels; try {nearest}"
            )
    return sizes


def _refuse_differences(folder: Folder, found: StoreSpec, wanted: StoreSpec) -> None:
    if differing := differences(found, wanted):
        raise StoreError(
            f"{folder.uri} cannot be continued: it was made with {differing}; "
            f"repeat the command it was made with, or encode into another store"
        )


def _report(request: EncodeRequest, folder: Folder, encoded: ShardsReport, decides: bool) -> EncodeReport:
    attributes = layout.read_attributes(folder)
    complete = attributes["complete"]
    rows = attributes["rows"] if complete else {"ok": 0, "failed": 0}
    total = rows["ok"] + rows["failed"]
    failures = LatentStore(request.store).failures() if complete and rows["failed"] else []
    return EncodeReport(
        store=request.store,
        num_rows=total,
        num_ok=rows["ok"],
        num_failed=rows["failed"],
        num_encoded_now=encoded.num_rows,
        elapsed_s=encoded.elapsed_s,
        stage_seconds=encoded.stage_seconds,
        bytes_on_disk=sum(folder.sizes().values()),
        num_clipped=sum(attributes["num_clipped"].values()) if complete else 0,
        failures=[Failure(**failure) for failure in failures[:_FAILURES_SHOWN]],
        complete=complete,
        decides=decides,
        too_many_failed=complete and request.max_failures.exceeded(rows["failed"], total),
    )
