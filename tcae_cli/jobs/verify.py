"""`tcae verify`: compares shards with their records, rows with their images, and a sample with what it decodes to."""

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tcae_cli.autoencoders.by_name import read_card
from tcae_cli.autoencoders.runner import load_runner
from tcae_cli.errors import NotFoundError, SourceError, StoreError
from tcae_cli.images.buckets import rows_of_stores, transforms_of_stores
from tcae_cli.jobs.pipeline import Stage, run_pipeline
from tcae_cli.jobs.verification import Verification
from tcae_cli.jobs.verify_picture import choose_picture
from tcae_cli.jobs.verify_sample import Sample, SampledRows, compare_sample
from tcae_cli.jobs.verify_source import compare_source, open_compared_source
from tcae_cli.reports.progress import Progress
from tcae_cli.reports.store import VerifyReport, VerifyRequest
from tcae_cli.runtime.device import choose_device
from tcae_cli.runtime.folder import open_pinned
from tcae_cli.sources.index import fetch_index
from tcae_cli.sources.source import Source, open_index
from tcae_cli.store.buckets import existing_stores
from tcae_cli.store.check_shard import ShardCheck, ShardChecker
from tcae_cli.store.check_tables import check_arrays, check_tables
from tcae_cli.store.codecs.registry import CODECS
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import bucket_folder, index_folder, read_side_array
from tcae_cli.store.lease import live_claims
from tcae_cli.store.record import record_name
from tcae_cli.store.spec import StoreSpec
from tcae_cli.store.totals import Totals

_MOST_THREADS = 4  # each holds a file of a shard
_RECORDS_SHOWN = 10
_SEED = 0


@dataclass
class _CheckedShards:
    """The shards that were checked, added up in their order."""

    totals: Totals = field(default_factory=Totals)
    num_files: int = 0
    num_bytes: int = 0
    damaged: list[int] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)  # ok rows whose image's hash is known
    hashes: list[np.ndarray] = field(default_factory=list)
    sound_rows: list[np.ndarray] = field(default_factory=list)  # those of them in shards without a problem

    def add(self, found: ShardCheck) -> None:
        """Count a shard."""
        if found.problems:
            self.damaged.append(found.shard)
        if found.record:
            self.totals.add(found.record)
        self.num_files += found.num_files
        self.num_bytes += found.num_bytes
        if found.content_hashes is not None:
            rows = np.array(found.ok_rows, np.int64)
            self.rows.append(rows)
            self.hashes.append(found.content_hashes)
            if not found.problems:
                self.sound_rows.append(rows)

    def hashes_of_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows, ascending, [k], int64, and the hashes of their images, [k], uint64."""
        return _joined(self.rows, np.int64), _joined(self.hashes, np.uint64)

    def draw(self, num_rows: int) -> dict[int, int]:
        """Return some sound rows, ascending and the same ones every time, with the hashes of their images."""
        sound = _joined(self.sound_rows, np.int64)
        chosen = np.random.default_rng(_SEED).choice(sound, min(num_rows, len(sound)), replace=False)
        chosen.sort()
        rows, hashes = self.hashes_of_rows()
        return dict(zip(chosen.tolist(), hashes[np.searchsorted(rows, chosen)].tolist(), strict=True))


@dataclass(frozen=True)
class _CheckedStore:
    """A store that holds rows, by itself or as a bucket, with what was found."""

    verification: Verification
    shards: _CheckedShards


def verify_store(request: VerifyRequest, progress: Progress) -> VerifyReport:
    """Check a store and report what is wrong with it.

    Raises StoreError if there is no store, or the model's encoder is not the one that made the latents; NotFoundError
    for a --source or --model that leads nowhere; UsageError for a --picture in a source.
    """
    store = StoreHandle(open_pinned(request.store))
    spec = store.spec
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

    checked = _check_stores(verification)
    now = StoreHandle(store.folder)
    try:
        for claim in live_claims(store.folder):
            verification.not_checked.append(f"the shard that process {claim['pid']} on {claim['host']} is writing now")
    except StoreError as error:  # a claim is damaged
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


def _check_stores(verification: Verification) -> dict[str, "_CheckedStore"]:
    """Check the store, or each of its buckets and what it says of them all, by name."""
    store = verification.store
    if store.spec.buckets is None:
        return {"": _check_store(verification)}
    for problem in check_arrays(store):
        verification.add_problem(problem)
    found = existing_stores(store)
    for name in store.spec.buckets.names:
        if name not in found:
            verification.add_problem(
                f"{bucket_folder(name)} is missing, or its zarr.json is damaged; repeat tcae encode-dataset"
            )
        elif store.is_complete and not found[name].is_complete:
            verification.add_problem(
                f"{bucket_folder(name)} is not complete, though the store is; repeat tcae encode-dataset"
            )
        elif found[name].spec.metadata_updates != store.spec.metadata_updates:
            verification.add_problem(
                f"{bucket_folder(name)} has older labels and captions than the store, whose update was interrupted; "
                f"repeat tcae encode-dataset, which completes it"
            )
    checked = {name: _check_store(verification.of_bucket(name, bucket)) for name, bucket in found.items()}
    totals = Totals()
    for part in checked.values():
        totals.merge(part.shards.totals)
    num_shards = sum(part.verification.store.spec.num_shards for part in checked.values())
    if store.is_complete and len(found) == len(store.spec.buckets.names) and totals.num_shards == num_shards:
        _check_tables(verification, totals)
    return checked


def _check_store(verification: Verification) -> "_CheckedStore":
    """Check a store that holds rows: its arrays, its shards and, once it is complete, its tables."""
    store = verification.store
    shards = _check_shards(verification)
    if store.is_complete and shards.totals.num_shards == store.spec.num_shards:
        _check_tables(verification, shards.totals)
    return _CheckedStore(verification, shards)


def _check_tables(verification: Verification, totals: Totals) -> None:
    # The shards may take hours, in which others append to a store or retry rows.
    store, now = verification.store, StoreHandle(verification.store.folder)
    if now.is_complete and now.generation == store.generation:
        for problem in check_tables(now, totals):
            verification.add_problem(problem)
    else:
        verification.not_checked.append(
            f"{verification.where}the statistics and the failures: the store was reopened meanwhile"
        )


def _samples(store: StoreHandle, source: Source, scratch: Path) -> dict[str, Sequence[int]]:
    """Return the samples of each store's rows, by the store's own list of images: another may not have their sizes."""
    if store.spec.buckets is None:
        return rows_of_stores(source, store.spec)
    return rows_of_stores(open_index(store.folder, index_folder(store.spec), scratch), store.spec)


def _check_keys(part: "_CheckedStore", source: Source, samples: Sequence[int]) -> None:
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
    checked: Mapping[str, "_CheckedStore"], samples: Mapping[str, Sequence[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples of the source that are rows of the stores, ascending, [k], and the hashes of their images."""
    rows, hashes = [], []
    for name, part in checked.items():
        of_part, of_rows = part.shards.hashes_of_rows()
        rows.append(np.array(samples[name], np.int64)[of_part])
        hashes.append(of_rows)
    together = _joined(rows, np.int64)
    order = np.argsort(together)
    return together[order], _joined(hashes, np.uint64)[order]


def _draw(
    checked: Mapping[str, "_CheckedStore"], samples: Mapping[str, Sequence[int]], spec: StoreSpec, num_rows: int
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


def _check_shards(verification: Verification) -> _CheckedShards:
    """Check the arrays' metadata and every shard that has a record, several at a time."""
    spec = verification.store.spec
    array_problems = check_arrays(verification.store)
    for problem in array_problems:
        verification.add_problem(problem)
    checker = ShardChecker(verification.store, with_side_arrays=not array_problems)
    shards = _CheckedShards()

    def take(found: ShardCheck) -> None:  # they come in order
        for problem in found.problems:
            verification.add_problem(problem)
        if found.record is None and not found.problems and verification.store.is_complete:
            verification.add_problem(
                f"{record_name(found.shard)} is missing, though the store is complete; repeat tcae encode-dataset"
            )
        shards.add(found)
        verification.progress.advance(len(spec.rows_of_shard(found.shard)))

    verification.progress.start("check", spec.num_rows, unit="rows")
    num_threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    run_pipeline(range(spec.num_shards), [Stage(checker.check, num_threads)], take)
    return shards


def _open_source(verification: Verification, store: StoreHandle, scratch: Path) -> Source | None:
    """Return the images in the rows of the store as it is now; None if nothing is known of them."""
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


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *parts])


def _report(
    verification: Verification, checked: Mapping[str, _CheckedStore], num_compared: int, sample: Sample
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
        damaged_records=damaged[:_RECORDS_SHOWN],
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
