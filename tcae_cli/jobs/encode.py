"""`tcae encode-dataset`: encodes a source of images into a store of latents; repeated, it resumes where it stopped."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tcae_cli.autoencoders.by_name import read_card
from tcae_cli.errors import DeviceMemoryError, StoreError
from tcae_cli.images.partition import shards_of_part, shards_of_rank
from tcae_cli.jobs.class_list import refuse_other_classes
from tcae_cli.jobs.encode_settings import check_settings, has_rows, settings_of, spec_with
from tcae_cli.jobs.encode_shards import EncodeRun, ShardsReport, encode_shards
from tcae_cli.jobs.encode_source import open_store_source, publish_index
from tcae_cli.reports.encode import EncodeReport, EncodeRequest
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import choose_device
from tcae_cli.runtime.folder import Folder, open_folder
from tcae_cli.sources.source import Source, open_index
from tcae_cli.store.claims import clear_claims
from tcae_cli.store.commit import (
    append_rows,
    clear_leftovers,
    finalise,
    read_failures,
    remove_old_indexes,
    reopen_failed,
    reopen_unless_whole,
    settle_repaired,
)
from tcae_cli.store.handle import StoreHandle, create_store, find_store, fit_arrays
from tcae_cli.store.layout import index_folder
from tcae_cli.store.lease import Lease, Place, join_store
from tcae_cli.store.shares import Shares
from tcae_cli.store.spec import StoreSettings
from tcae_cli.store.work import PlannedWork, SharedWork, Work
from tcae_cli.store.writer import StoreWriter

_FAILURES_SHOWN = 10
_RANGES = {"bf16": "bf16, which has the range of float32", "fp32": "float32"}  # by precision


def encode_dataset(request: EncodeRequest, progress: Progress) -> EncodeReport:
    """Encode every row of the source that the store does not hold yet, and finish the store after the last.

    Every rank of a launch, and every part, calls this. Each encodes its own shards; whichever finds all committed
    finishes the store. Raises a TcaeError for a source, model or store that cannot work; what is committed stays.
    """
    card = read_card(request.model)
    device = choose_device(request.device)
    settings = settings_of(request, card, device)
    if card.overflows_in_half and not distributed.local_rank():
        progress.say(
            f"{card.name} is known to overflow in float16, so it is encoded in {_RANGES[settings.compute.dtype]}"
        )
    run = EncodeRun(request, device, progress)
    folder, place = open_folder(request.store), _place(request)
    found = find_store(folder)  # anything else in the folder is refused before anything is written

    with naming_the_batch_size_of(request), join_store(folder, place) as lease, TemporaryDirectory() as scratch:
        if place.is_leader:
            clear_leftovers(folder, lease.live_owners)
            if found:
                clear_claims(folder, _shards(request, found), lease.live_owners)
            store = _make_ready(run, settings, folder, Path(scratch))
            lease.announce_ready()
        else:
            lease.wait_for_leader()
            store = StoreHandle(folder)
            check_settings(request, store, settings, progress)
        was_complete = store.is_complete

        source = open_index(folder, index_folder(store.spec), Path(scratch))
        writer = StoreWriter(store, lease.check)
        work = _work(run, writer, lease, source) if not was_complete else PlannedWork(writer, ())
        encoded, finished = encode_shards(run, writer, source, work), False
        while not was_complete:
            lease.refresh()
            lease.check()
            finished = finalise(store)
            if finished or not work.is_reopened():
                break
            encoded = encoded.and_then(encode_shards(run, writer, source, work))
    decides = finished or (was_complete and place.is_leader)
    return _report(request, store, encoded, source, decides)


def _work(run: EncodeRun, writer: StoreWriter, lease: Lease, source: Source) -> Work:
    """Return the work of this process: the shards of its part, or those that the ranks of its launch share."""
    shards = shards_of_part(writer.spec.num_shards, run.request.part, run.request.num_parts)
    rank, world_size = distributed.rank(), distributed.world_size()
    if world_size == 1:
        return PlannedWork(writer, shards)
    in_groups = source.access != "row"
    shares = [shards_of_rank(shards, each, world_size, side_by_side=in_groups) for each in range(world_size)]
    return SharedWork(writer, lease, Shares(shares, rank, in_runs=in_groups), run.progress)


def _place(request: EncodeRequest) -> Place:
    """Return this process's place: ranks of a launch share its name; parts share a store, each with a leader."""
    rank, world_size = distributed.rank(), distributed.world_size()
    if request.num_parts == 1:
        return Place(distributed.launch_id(), str(rank), "0", world_size > 1)
    return Place(f"parts-{request.num_parts}", f"{request.part}-{rank}", f"{request.part}-0", world_size > 1)


def _make_ready(run: EncodeRun, settings: StoreSettings, folder: Folder, scratch: Path) -> StoreHandle:
    """Make the store, or check that the one there was made with the same settings from the same images."""
    request, progress = run.request, run.progress
    found = find_store(folder)
    if found:  # refused before the source is scanned
        check_settings(request, found, settings, progress, has_rows=has_rows(request, found))
    source = open_store_source(request, found, scratch, progress)
    spec = spec_with(request, source, found, settings)
    identity = spec.source
    if not found and request.dtype == "int8":
        from tcae_cli.jobs.quantisation import measure_quantisation  # here, since its metrics are slow to import

        spec = measure_quantisation(request, spec, source, run.device, progress)
    publish_index(folder, source.index_dir, index_folder(spec))

    # Other parts may have made the store, or given it rows, while this one looked through the source.
    store = found or create_store(folder, spec)
    if not found:
        _refuse_another_source(store, {identity.fingerprint})
        refuse_other_classes(store, identity)
        check_settings(request, store, settings, progress)
    else:
        known = {identity.fingerprint, store.spec.source.fingerprint}
        store.refresh()
        _refuse_another_source(store, known)
        if not has_rows(request, store) and store.spec.compute != spec.compute:
            if store.spec.compute.batch_size != (now := spec.compute.batch_size):
                progress.say(f"{folder.uri} has no committed row, so its batches may be of {now} now")
            store.write_root(compute=spec.compute.model_dump(mode="json"))
        # Before reopening, which reads the root again: rows that another part appends then must not be taken away.
        has_grown = identity.fingerprint != store.spec.source.fingerprint
        reopen_unless_whole(store)
        if has_grown:
            append_rows(store, identity)
        store.refresh()  # rows that another part has appended meanwhile must not be taken away
        fit_arrays(store)
    if found and source.has_problems:
        settle_repaired(store, _shards(request, store), source.problem)
    if request.num_parts == 1:  # other parts may be about to name theirs
        remove_old_indexes(store)
    if request.retry_failed and found and (count := reopen_failed(store, _shards(request, store))):
        progress.say(f"{count:,} failed rows are tried again")
    return store


def _shards(request: EncodeRequest, store: StoreHandle) -> range:
    return shards_of_part(store.spec.num_shards, request.part, request.num_parts)


def _refuse_another_source(store: StoreHandle, fingerprints: set[str]) -> None:
    """Raise StoreError if another part has given the store other images while this one looked through its own."""
    if store.spec.source.fingerprint not in fingerprints:
        raise StoreError(
            f"{store.folder.uri} was given other images by another part meanwhile; "
            f"give all parts one source, and repeat"
        )


@contextmanager
def naming_the_batch_size_of(request: EncodeRequest) -> Iterator[None]:
    """Let running out of device memory name a command that works, whether the store may take another batch size or not.

    The store is looked at when that happens, since rows may have been committed until then.
    """
    try:
        yield
    except DeviceMemoryError as error:
        size = error.batch_size
        if size < 2:
            raise
        store = find_store(open_folder(request.store))
        advice, options = f"try --batch-size {size // 2}", {"--batch-size": str(size // 2)}
        if store and has_rows(request, store):
            options = {}
            advice = (
                f"{request.store} can only be continued with the same batch size: stop other programs on the "
                f"device and repeat, or encode into another store with --batch-size {size // 2}"
            )
        found = f"out of memory on the device with --batch-size {size}"
        raise DeviceMemoryError(f"{found}; {advice}", options=options) from error


def _report(
    request: EncodeRequest, store: StoreHandle, encoded: ShardsReport, source: Source, decides: bool
) -> EncodeReport:
    store.refresh()  # another process may have completed it
    attributes, complete = store.attributes, store.is_complete
    rows = attributes["rows"] if complete else {"ok": 0, "failed": 0}
    total = rows["ok"] + rows["failed"]
    table = read_failures(store.folder) if rows["failed"] else []
    failures = [failure for failure in table if not failure.is_repaired]
    return EncodeReport(
        store=request.store,
        num_rows=total,
        num_ok=rows["ok"],
        num_failed=len(failures),
        num_repaired=len(table) - len(failures),
        labels_from=source.labels_from,
        captions_from=source.captions_from if store.spec.has_captions else {},
        num_encoded_now=encoded.num_rows,
        elapsed_s=encoded.elapsed_s,
        startup_s=encoded.startup_s,
        stage_seconds=encoded.stage_seconds,
        bytes_on_disk=sum(store.folder.sizes().values()),
        num_clipped=sum(attributes["num_clipped"].values()) if complete else 0,
        failures=failures[:_FAILURES_SHOWN],
        complete=complete,
        decides=decides,
        too_many_failed=complete and request.max_failures.exceeded(len(failures), rows["ok"] + len(failures)),
    )
