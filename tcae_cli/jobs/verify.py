"""`tcae verify`: compares shards with their records, rows with their images, and a sample with what it decodes to."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tcae_cli.autoencoders.by_name import read_card
from tcae_cli.autoencoders.runner import load_runner
from tcae_cli.errors import NotFoundError, SourceError, StoreError
from tcae_cli.images.buckets import rows_of_stores, transforms_of_stores
from tcae_cli.jobs.verification import Verification
from tcae_cli.jobs.verify_picture import choose_picture
from tcae_cli.jobs.verify_sample import Sample, SampledRows, compare_sample
from tcae_cli.jobs.verify_source import compare_source, open_compared_source
from tcae_cli.jobs.verify_stores import CheckedStore, check_stores, joined
from tcae_cli.reports.progress import Progress
from tcae_cli.reports.store import VerifyReport, VerifyRequest
from tcae_cli.runtime.device import choose_device
from tcae_cli.runtime.folder import open_pinned
from tcae_cli.sources.index import fetch_index
from tcae_cli.sources.source import Source, open_index
from tcae_cli.store.buckets import refuse_a_bucket, whole_of
from tcae_cli.store.codecs.registry import CODECS
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import index_folder, read_side_array
from tcae_cli.store.lease import live_leases
from tcae_cli.store.record import record_name
from tcae_cli.store.spec import StoreSpec
from tcae_cli.store.totals import Totals


def verify_store(request: VerifyRequest, progress: Progress) -> VerifyReport:
    """Check a store and report what is wrong with it.

    Raises StoreError if there is no store, or the model's encoder is not the one that made the latents; NotFoundError
    for a --source or --model that leads nowhere; UsageError for a --picture in a source.
    """
    store = StoreHandle(open_pinned(request.store))
    spec = store.spec
    if request.source:  # which is compared with the list of images, and that is of all buckets
        refuse_a_bucket(store.folder)
    verification = Verification(request, store, progress)
    picture = choose_picture(request, store)
    model = _find_model(verification)  # refused before hours of work
    device = choose_device(request.device)
    if not spec.has_checksums:
        latents = "" if CODECS[spec.codec].has_checksum else ", and so are its latents"
        verification.notes.append(
            f"the store is of format version 1: its side arrays are unprotected{latents}, so readers do not notice a "
            f"flipped bit there, though this command does; encode into a new store to protect them"
        )

    checked = check_stores(verification)
    now = StoreHandle(store.folder)
    try:
        for lease in live_leases(store.folder):
            verification.not_checked.append(f"the shard that process {lease['pid']} on {lease['host']} is writing now")
    except StoreError as error:  # a lease is damaged
        verification.add_problem(str(error))

    num_compared = 0
    sample = Sample()
    with TemporaryDirectory() as scratch:
        source = _open_source(verification, now, Path(scratch))
        samples = _samples(now, source, Path(scratch)) if source else {}
        if source:
            for name, part in checked.items():
                _check_keys(part, source, samples.get(name, []))
        if source and request.source:
            num_compared = compare_source(verification, source, *_hashes_of_samples(checked, samples))
        if source and model:
            runner = load_runner(model, device, spec.compute.dtype)
            drawn = _draw(checked, samples, now.spec, request.num_rows)
            try:
                sample = compare_sample(verification, runner, source, drawn, picture)
            except SourceError as error:  # a file that holds many images may be missing
                verification.not_checked.append(f"whether latents decode to their images: {error}")
    if sample.num_without_image:
        verification.not_checked.append(
            f"{sample.num_without_image} of the {request.num_rows} rows of the sample: their images have changed "
            f"or are missing{'' if request.source else '; --source says where images are now'}"
        )
    return _report(verification, checked, num_compared, sample)


def _samples(store: StoreHandle, source: Source, scratch: Path) -> dict[str, Sequence[int]]:
    """Return the samples of each store's rows, by the store's own list of images: another may not have their sizes."""
    if store.spec.buckets is None:
        return rows_of_stores(source, store.spec)
    return rows_of_stores(open_index(store.folder, index_folder(store.spec), scratch), store.spec)


def _check_keys(part: CheckedStore, source: Source, samples: Sequence[int]) -> None:
    """Report rows of a bucket that are not of the samples which the sizes of their images put there."""
    verification, store = part.verification, part.verification.store
    if verification.whole is None or not store.is_complete:
        return
    try:
        keys = read_side_array(store.folder, store.spec, "keys", is_complete=True).tolist()
    except (StoreError, OSError):  # the shards' checks say so
        return
    if keys != source.keys(samples[: len(keys)]):
        verification.add_problem("its rows are not those that the list of images puts there; encode a new store")


def _hashes_of_samples(
    checked: Mapping[str, CheckedStore], samples: Mapping[str, Sequence[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples of the source that are rows of the stores, ascending, [k], and the hashes of their images."""
    rows, hashes = [], []
    for name, part in checked.items():
        of_part, of_rows = part.shards.hashes_of_rows()
        rows.append(np.array(samples[name], np.int64)[of_part])
        hashes.append(of_rows)
    together = joined(rows, np.int64)
    order = np.argsort(together)
    return together[order], joined(hashes, np.uint64)[order]


def _draw(
    checked: Mapping[str, CheckedStore], samples: Mapping[str, Sequence[int]], spec: StoreSpec, num_rows: int
) -> list[SampledRows]:
    """Return rows to decode: some of each store, about so many together."""
    transforms = transforms_of_stores(spec)
    total = sum(len(samples.get(name, ())) for name in checked) or 1
    return [
        SampledRows(
            store=part.verification.store,
            samples=samples[name],
            transform=transforms[name],
            hashes=part.shards.draw(-(-num_rows * len(samples[name]) // total)),
            where=part.verification.where,
        )
        for name, part in checked.items()
        if name in samples
    ]


def _find_model(verification: Verification) -> str | None:
    """Return the name of the model to decode with; None if it cannot be found, or no sample is wanted."""
    request = verification.request
    if not request.num_rows:
        return None
    name = request.model or verification.store.spec.encoder.name
    try:
        card = read_card(name)
    except NotFoundError as error:
        if request.model:
            raise
        verification.not_checked.append(f"whether latents decode to their images: {error}; --model names a model")
        return None
    verification.store.refuse_other_encoder(
        card.encoder_hash, name, "pass --model with the first, or --rows 0 to decode nothing"
    )
    if not card.has_decoder:
        verification.not_checked.append(f"whether latents decode to their images: {name} has no decoder")
        return None
    return name


def _open_source(verification: Verification, store: StoreHandle, scratch: Path) -> Source | None:
    """Return the images in the rows of the store as it is now; None if nothing is known of them."""
    if whole := whole_of(store.folder):
        verification.not_checked.append(
            f"whether latents decode to their images: this is a bucket of {whole.folder.uri}, which lists them; name it"
        )
        return None
    try:
        if index := fetch_index(store.folder, index_folder(store.spec), scratch):
            deque(Source(index).entries(), maxlen=0)  # all of it, which compares its checksums
    except SourceError as error:  # it is damaged
        verification.add_problem(str(error))
        verification.not_checked.append("rows against their images, since the list of images is damaged")
        return None
    if verification.request.source:
        return open_compared_source(verification, store, verification.request.source, scratch)
    try:
        return open_index(store.folder, index_folder(store.spec), scratch)
    except (SourceError, OSError) as error:
        verification.not_checked.append(
            f"whether latents decode to their images: the store's list of images cannot be read ({error})"
        )
        return None


def _report(
    verification: Verification, checked: Mapping[str, CheckedStore], num_compared: int, sample: Sample
) -> VerifyReport:
    parts, totals = list(checked.values()), Totals()
    for part in parts:
        totals.merge(part.shards.totals)
    damaged = [
        f"{part.verification.where.replace(': ', '/')}{record_name(shard)}"
        for part in parts
        for shard in part.shards.damaged
    ]
    return VerifyReport(
        store=verification.request.store,
        complete=verification.store.is_complete,
        num_rows=verification.store.spec.num_rows,
        num_ok=totals.num_ok,
        num_failed=totals.num_counted,
        num_repaired=totals.num_repaired,
        num_too_small=totals.num_too_small,
        num_shards=sum(part.verification.store.spec.num_shards for part in parts),
        num_shards_checked=totals.num_shards,
        num_files=sum(part.shards.num_files for part in parts),
        num_bytes=sum(part.shards.num_bytes for part in parts),
        damaged_records=damaged,
        source=verification.request.source,
        num_compared=num_compared,
        sample=sample.rows,
        mean_psnr=sample.mean_psnr(),
        picture=sample.picture,
        problems=verification.problems,
        num_problems=verification.num_problems,
        not_checked=verification.not_checked,
        notes=verification.notes,
        elapsed_s=time.perf_counter() - verification.started,
    )
