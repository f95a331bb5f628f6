"""`tcae encode-dataset`: a source of images in, a store of latents out; repeating it goes on where it stopped."""

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tcae_cli.checkpoint import CheckpointHeader, read_header
from tcae_cli.data.index import copy_index
from tcae_cli.data.partition import shards_of_rank
from tcae_cli.data.source import Source, load_source, open_source
from tcae_cli.errors import StoreError, UsageError
from tcae_cli.jobs.encode_shards import ShardsReport, encode_shards
from tcae_cli.report import EncodeReport, EncodeRequest, Progress
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import choose_device, default_precision
from tcae_cli.runtime.files import tree_bytes
from tcae_cli.store import layout
from tcae_cli.store.commit import finalise, reopen_unless_whole
from tcae_cli.store.lease import join_store
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.writer import StoreWriter

_FAILURES_SHOWN = 10
_TOOLS = ("tcae", "torch", "timm", "pillow", "numpy", "zarr", "numcodecs")


def encode_dataset(request: EncodeRequest, progress: Progress) -> EncodeReport:
    """Encode every row of the source that the store does not hold yet, and finish the store after the last.

    Every rank of a launch calls this. Each encodes its own shards; whichever finds all committed finishes the store.
    Raises a TcaeError for a source, model or store that cannot work; what is committed stays.
    """
    header = read_header(request.model)
    device = choose_device(request.device, distributed.local_rank())
    rank, world_size = distributed.rank(), distributed.world_size()
    layout.is_store(request.store)  # refuses a path that is something else, before anything is written there

    with join_store(request.store, distributed.launch_id(), rank, world_size) as lease:
        if rank == 0:
            _create_or_check(request, header, device)
            lease.announce_ready()
        else:
            lease.wait_for_rank_zero()
            _refuse_differences(request, _describe(request, header, device, load_source(_index(request))))
        was_complete = layout.is_complete(request.store)

        writer = StoreWriter(request.store)
        mine = shards_of_rank(writer.spec.num_shards, rank, world_size)
        encoded = encode_shards(request, writer, mine, device, progress)

        finished = not was_complete and finalise(request.store)
    return _report(request, encoded, decides=finished or (was_complete and rank == 0))


def _create_or_check(request: EncodeRequest, header: CheckpointHeader, device: torch.device) -> None:
    """Make the store, or see that what is there was made the same way from the same images."""
    with TemporaryDirectory() as scratch:
        source = open_source(request.source, Path(scratch))
        wanted = _describe(request, header, device, source)
        is_new = not layout.is_store(request.store)
        if not is_new:
            _refuse_differences(request, wanted)
            reopen_unless_whole(request.store)
        copy_index(Path(scratch), _index(request))  # for an old store too: the images may have moved
        if is_new:
            layout.create_store(request.store, wanted)


def _describe(
    request: EncodeRequest, header: CheckpointHeader, device: torch.device, source: Source
) -> layout.StoreSpec:
    """The store this request makes."""
    spec, size = header.spec, request.size or header.spec.image_size
    positions, rest = divmod(size, spec.downsampling)
    if rest:
        nearest = max(1, round(size / spec.downsampling)) * spec.downsampling
        raise UsageError(f"--size {size} is not a multiple of {spec.downsampling}, a latent's pixels; try {nearest}")
    itemsize = {"float16": 2, "float32": 4}[request.dtype]
    rows_per_shard = layout.rows_per_shard(len(source), spec.latent_channels * positions**2 * itemsize)
    return layout.StoreSpec(
        encoder=layout.EncoderIdentity(
            name=request.model, hash=header.encoder_hash, spec=spec.model_dump(mode="json"), recipe=header.recipe
        ),
        transform=layout.TransformSpec(size=size, resize=request.resize),
        compute=layout.ComputeSpec(
            dtype=request.precision or default_precision(device),
            batch_size=min(request.batch_size, rows_per_shard),  # batches do not cross shards
        ),
        latent=layout.LatentShape(
            channels=spec.latent_channels, height=positions, width=positions, downsampling=spec.downsampling
        ),
        source=layout.SourceIdentity(
            uri=source.uri,
            count=len(source),
            fingerprint=source.fingerprint,
            class_names=list(source.class_names),
        ),
        dtype=request.dtype,
        codec=request.codec,
        rows_per_shard=rows_per_shard,
        has_captions=source.has_captions,
        tool_versions={name: version(name) for name in _TOOLS},
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _refuse_differences(request: EncodeRequest, wanted: layout.StoreSpec) -> None:
    found = layout.differences(layout.read_spec(request.store), wanted)
    if found:
        raise StoreError(
            f"{request.store} cannot be continued: it was made with {found}; "
            f"repeat the command it was made with, or encode into another store"
        )


def _report(request: EncodeRequest, encoded: ShardsReport, decides: bool) -> EncodeReport:
    complete = layout.is_complete(request.store)
    counts = layout.read_attributes(request.store)["rows"] if complete else {"ok": 0, "failed": 0}
    total = counts["ok"] + counts["failed"]
    failures = LatentStore(request.store).failures() if complete and counts["failed"] else []
    return EncodeReport(
        store=request.store,
        num_rows=total,
        num_ok=counts["ok"],
        num_failed=counts["failed"],
        num_encoded_now=encoded.num_rows,
        elapsed_s=encoded.elapsed_s,
        stage_seconds=encoded.stage_seconds,
        bytes_on_disk=tree_bytes(request.store),
        failures=failures[:_FAILURES_SHOWN],
        complete=complete,
        decides=decides,
        too_many_failed=complete and request.max_failures.exceeded(counts["failed"], total),
    )


def _index(request: EncodeRequest) -> Path:
    return request.store / layout.INDEX_FOLDER
