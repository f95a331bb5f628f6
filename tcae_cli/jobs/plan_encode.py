"""`tcae encode-dataset --dry-run`: what encoding would do and take, without writing to the store."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tcae_cli.autoencoders.by_name import read_card
from tcae_cli.autoencoders.runner import load_runner
from tcae_cli.evaluation.metrics.cost import counted_cost
from tcae_cli.images.buckets import rows_of_stores
from tcae_cli.jobs.encode import naming_the_batch_size_of
from tcae_cli.jobs.encode_settings import check_settings, has_rows, settings_of, spec_with
from tcae_cli.jobs.encode_shards import EncodeRun
from tcae_cli.jobs.encode_shares import of_part
from tcae_cli.jobs.encode_source import open_store_source
from tcae_cli.jobs.rehearsal import rehearse, sample_spec
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.encode_plan import EncodePlan, EncodePlanRequest
from tcae_cli.reports.progress import Progress
from tcae_cli.reports.report import Span
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import choose_device, device_words
from tcae_cli.runtime.files import free_bytes, tree_bytes
from tcae_cli.runtime.folder import open_folder
from tcae_cli.runtime.memory import total_bytes
from tcae_cli.runtime.remote import is_remote
from tcae_cli.sources.source import Source
from tcae_cli.store.bucket_spec import bucket_spec
from tcae_cli.store.buckets import bucket_identity, existing_stores, refuse_a_bucket
from tcae_cli.store.commit import failed_rows
from tcae_cli.store.handle import StoreHandle, find_store
from tcae_cli.store.layout import ROOT
from tcae_cli.store.record import RECORDS_FOLDER
from tcae_cli.store.spec import StoreSpec
from tcae_cli.store.writer import plan_shards

_CHUNK_FRAMING_BYTES = 17  # of a zstd frame and the CRC-32C after it


def plan_encoding(plan: EncodePlanRequest, progress: Progress) -> EncodePlan:
    """Estimate an encoding from the model's header, the source's index and a few batches of its first images.

    The batches go through the whole command, into a store in a temporary folder, whose files are scaled up; one rank is
    measured, whatever the number of ranks. Raises a TcaeError as `encode_dataset` does, for whatever it would refuse.
    """
    request = plan.encode
    card = read_card(request.model)
    device = choose_device(request.device)
    settings = settings_of(request, card, device)
    folder = open_folder(request.store)
    found = find_store(folder)
    refuse_a_bucket(folder)
    if found:
        check_settings(request, found, settings, progress, has_rows=has_rows(request, found))

    with naming_the_batch_size_of(request), TemporaryDirectory() as scratch:
        source = open_store_source(request, found, Path(scratch), progress)
        spec = spec_with(request, source, found, settings)
        stores = existing_stores(found) if found else {}
        specs = _specs_of_stores(spec, source, stores)
        runner = load_runner(request.model, device, spec.compute.dtype)
        costs = [counted_cost(runner.model, card, view.size) for view in spec.views.values()]
        sample = sample_spec(spec, source, runner)
        rehearsal, sizes = rehearse(EncodeRun(request, device, progress), sample, source, Path(scratch))
        index = tree_bytes(source.index_dir), len(list(source.index_dir.iterdir()))

    num_rows, left = _count_rows(request, specs, stores)
    store_bytes, num_files = map(sum, zip(*(_scaled(sizes, sample, each) for each in specs.values()), strict=True))
    if spec.buckets:
        # The root has a copy of every bucket's metadata.
        store_bytes += len(specs) * sum(size for name, size in sizes.items() if name.endswith(ROOT))
        progress.say(f"estimated as squares of {spec.sizes[0]} pixels, which no bucket exceeds")
    speed = rehearsal.images_per_s
    seconds = Span(*(left / plan.num_ranks / rate for rate in (speed.highest, speed.median, speed.lowest)))
    result = EncodePlan(
        rank=distributed.rank(),
        store=request.store,
        source=request.source,
        num_images=len(source),
        num_rows=num_rows,
        num_rows_left=left,
        num_shards=sum(each.num_shards for each in specs.values()),
        rows_per_shard=max(each.rows_per_shard for each in specs.values()),
        num_files=num_files + index[1],
        store_bytes=store_bytes + index[0],
        bytes_left=round((store_bytes + index[0]) * left / spec.num_rows),
        free_bytes=None if is_remote(request.store) else free_bytes(Path(request.store)),
        model=card.name,
        encoder_hash=card.encoder_hash,
        encoder_parameters=int(costs[0]["encoder-parameters"]),
        encode_macs=sum(cost["encode-macs"] for cost in costs),
        device=device_words(device),
        device_bytes=total_bytes(device),
        num_ranks=plan.num_ranks,
        rehearsal=rehearsal,
        seconds=seconds if left else None,
        missing=[],
    )
    return replace(result, missing=_missing(result))


def _specs_of_stores(spec: StoreSpec, source: Source, stores: Mapping[str, StoreHandle]) -> dict[str, StoreSpec]:
    """Return the specs of the stores that will hold the rows: of each bucket, by name, or of the store itself.

    stores: those that exist, whose shards keep their sizes.
    """
    if spec.buckets is None:
        return {"": spec}
    counts = {name: len(samples) for name, samples in rows_of_stores(source, spec).items()}
    specs = {name: bucket_spec(spec, name, bucket_identity(spec, name, count)) for name, count in counts.items()}
    return specs | {
        name: specs[name].model_copy(update={"rows_per_shard": store.spec.rows_per_shard})
        for name, store in stores.items()
    }


def _count_rows(
    request: EncodeRequest, specs: Mapping[str, StoreSpec], stores: Mapping[str, StoreHandle]
) -> tuple[int, int]:
    """Return how many rows this part of all stores has, and how many of them the command would encode."""
    shards = dict(zip(specs, of_part(list(specs.values()), request.part, request.num_parts), strict=True))
    rows = {name: sum(len(spec.rows_of_shard(shard)) for shard in shards[name]) for name, spec in specs.items()}
    left = rows | {name: _rows_left(request, store, specs[name], shards[name]) for name, store in stores.items()}
    return sum(rows.values()), sum(left.values())


def _rows_left(request: EncodeRequest, store: StoreHandle, spec: StoreSpec, shards: Sequence[int]) -> int:
    """Return how many rows of a store's shards the command would encode."""
    left = sum(len(plan.todo) for plan in plan_shards(store.folder, spec, shards))
    if request.retry_failed:
        left += sum(row // spec.rows_per_shard in shards for row in failed_rows(store))
    return left


def _scaled(sizes: Mapping[str, int], sample: StoreSpec, spec: StoreSpec) -> tuple[int, int]:
    """Return the bytes and the files of a store without its index, by those of a store of some of its rows."""
    rows, records = {}, {}
    framing = 0  # bytes of the chunks of side arrays that do not depend on how many rows they have
    for name, size in sizes.items():
        array = name.partition("/")[0]
        if name.startswith(RECORDS_FOLDER):
            records[name] = size
        elif array in {*spec.latent_arrays, *spec.side_arrays} and not name.endswith(ROOT):
            rows[name] = size
            framing += _CHUNK_FRAMING_BYTES if array in spec.side_arrays else 0
    of_rows, of_shards = sum(rows.values()) - framing, sum(records.values()) + framing
    constant = sum(sizes.values()) - of_rows - of_shards
    shards = spec.num_shards / sample.num_shards
    num_bytes = constant + of_rows * spec.num_rows / sample.num_rows + of_shards * shards
    num_files = len(sizes) + (len(rows) + len(records)) * (shards - 1)
    return round(num_bytes), round(num_files)


def _missing(plan: EncodePlan) -> list[str]:
    if plan.exit_code:
        return [f"the disk of {plan.store} is too small; free some space, or name another store"]
    return []
