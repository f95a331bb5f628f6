"""`tcae encode-dataset`: encodes a source of images into a store of latents; repeated, it resumes where it stopped."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tcae_cli.autoencoders.by_name import read_card
from tcae_cli.errors import DeviceMemoryError, StoreError
from tcae_cli.images.buckets import rows_of_stores, transforms_of_stores
from tcae_cli.jobs.class_list import refuse_other_classes
from tcae_cli.jobs.encode_settings import check_settings, has_rows, settings_of, spec_with
from tcae_cli.jobs.encode_shards import EncodeRun, ShardsReport, Target, encode_shards
from tcae_cli.jobs.encode_shares import of_part, of_ranks
from tcae_cli.jobs.encode_source import open_store_source, publish_index
from tcae_cli.reports.encode import EncodeReport, EncodeRequest
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import choose_device
from tcae_cli.runtime.folder import Folder, open_folder
from tcae_cli.sources.source import Source, open_index
from tcae_cli.store.buckets import existing_stores, finish, make_buckets, refuse_a_bucket, restore_buckets, stores_of
from tcae_cli.store.claims import clear_claims
from tcae_cli.store.commit import (
    append_rows,
    clear_leftovers,
    read_failures,
    remove_old_indexes,
    reopen,
    reopen_failed,
    reopen_unless_whole,
    settle_repaired,
)
from tcae_cli.store.handle import StoreHandle, create_store, find_store, fit_arrays
from tcae_cli.store.layout import index_folder
from tcae_cli.store.lease import Lease, Place, join_store
from tcae_cli.store.settings import StoreSettings
from tcae_cli.store.shares import Shares
from tcae_cli.store.work import AllWork, PlannedWork, SharedWork, Work
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
    refuse_a_bucket(folder)

    with naming_the_batch_size_of(request), join_store(folder, place) as lease, TemporaryDirectory() as scratch:
        if place.is_leader:
            clear_leftovers(folder, lease.live_owners)
            if found:
                _clear_up(request, found, lease)
            store = _make_ready(run, settings, folder, Path(scratch))
            lease.announce_ready()
        else:
            lease.wait_for_leader()
            store = StoreHandle(folder)
            check_settings(request, store, settings, progress)
        was_complete = store.is_complete

        source = open_index(folder, index_folder(store.spec), Path(scratch))
        samples, transforms = rows_of_stores(source, store.spec), transforms_of_stores(store.spec)
        targets = [
            Target(StoreWriter(each, lease.check), samples[name], transforms[name])
            for name, each in stores_of(store).items()
        ]
        work = AllWork([] if was_complete else _works(run, targets, lease, source), lease.check)
        encoded, finished = encode_shards(run, targets, source, work), False
        while not was_complete:
            lease.refresh()
            lease.check()
            finished = finish(store)
            if finished or not work.is_reopened():
                break
            encoded = encoded.and_then(encode_shards(run, targets, source, work))
    decides = finished or (was_complete and place.is_leader)
    return _report(request, store, encoded, source, decides)


def _clear_up(request: EncodeRequest, store: StoreHandle, lease: Lease) -> None:
    """Remove what killed processes left in a store or in its buckets, and the claims of earlier launches."""
    restore_buckets(store)
    stores = list(existing_stores(store).values())
    shards = of_part([each.spec for each in stores], request.part, request.num_parts)
    for each, of_store in zip(stores, shards, strict=True):
        clear_leftovers(each.folder, lease.live_owners)
        clear_claims(each.folder, of_store, lease.live_owners)


def _works(run: EncodeRun, targets: Sequence[Target], lease: Lease, source: Source) -> list[Work]:
    """Return this process's work on each store: the shards of its part, or those that the ranks of its launch share."""
    rank, world_size = distributed.rank(), distributed.world_size()
    in_groups = source.access != "row"
    writers = [target.writer for target in targets]
    specs = [writer.spec for writer in writers]
    shards = of_part(specs, run.request.part, run.request.num_parts)
    if world_size == 1:
        return [PlannedWork(*each) for each in zip(writers, shards, strict=True)]
    shares = of_ranks(specs, shards, world_size, side_by_side=in_groups)
    return [
        SharedWork(writer, lease, Shares(of_store, rank, in_runs=in_groups), run.progress)
        for writer, of_store in zip(writers, shares, strict=True)
    ]


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
        if store.spec.buckets is None:
            reopen_unless_whole(store)
        if has_grown:
            append_rows(store, identity)
        store.refresh()  # rows that another part has appended meanwhile must not be taken away
        fit_arrays(store)
    if spec.buckets:
        make_buckets(store, {name: len(rows) for name, rows in rows_of_stores(source, store.spec).items()})
    if found:
        _try_again(run, store, source)
    if request.num_parts == 1:  # other parts may be about to name theirs
        remove_old_indexes(store)
    return store


def _try_again(run: EncodeRun, store: StoreHandle, source: Source) -> None:
    """Reopen the shards of this part with failed rows that are to be tried again, or that no longer count as failed."""
    request, stores = run.request, stores_of(store)
    if not (source.has_problems or request.retry_failed):
        return
    if store.spec.buckets and store.is_complete and store.attributes["rows"]["failed"]:
        reopen(store)
    shards = of_part([each.spec for each in stores.values()], request.part, request.num_parts)
    count = 0
    for (name, each), of_store in zip(stores.items(), shards, strict=True):
        samples = rows_of_stores(source, store.spec)[name]
        if source.has_problems:
            settle_repaired(each, of_store, partial(_problem, source, samples))
        if request.retry_failed:
            count += reopen_failed(each, of_store)
    if count:
        run.progress.say(f"{count:,} failed rows are tried again")


def _problem(source: Source, samples: Sequence[int], row: int) -> str:
    return source.problem(int(samples[row]))


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
    stores = stores_of(store).values() if rows["failed"] else ()
    table = [failure for each in stores for failure in read_failures(each.folder)]
    failures = [failure for failure in table if failure.counts]
    return EncodeReport(
        store=request.store,
        num_rows=total,
        num_ok=rows["ok"],
        num_failed=len(failures),
        num_repaired=sum(failure.is_repaired for failure in table),
        num_too_small=sum(failure.is_too_small for failure in table),
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
