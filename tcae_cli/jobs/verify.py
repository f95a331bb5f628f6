"""`tcae verify`: compares shards with their records, rows with their images, and a sample with what it decodes to."""

import os
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tcae_cli.autoencoders.by_name import read_card
from tcae_cli.autoencoders.runner import load_runner
from tcae_cli.errors import NotFoundError, SourceError, StoreError
from tcae_cli.jobs.pipeline import Stage, run_pipeline
from tcae_cli.jobs.verification import Verification
from tcae_cli.jobs.verify_picture import choose_picture
from tcae_cli.jobs.verify_sample import Sample, compare_sample
from tcae_cli.jobs.verify_source import compare_source, open_compared_source
from tcae_cli.reports.progress import Progress
from tcae_cli.reports.store import VerifyReport, VerifyRequest
from tcae_cli.runtime.device import choose_device
from tcae_cli.runtime.folder import open_pinned
from tcae_cli.sources.index import fetch_index
from tcae_cli.sources.source import Source, open_index
from tcae_cli.store.check_shard import ShardCheck, ShardChecker
from tcae_cli.store.check_tables import check_arrays, check_tables
from tcae_cli.store.codecs.registry import CODECS
from tcae_cli.store.commit import Totals
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import index_folder
from tcae_cli.store.lease import live_claims
from tcae_cli.store.record import record_name

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

    shards = _check_shards(verification)
    now = StoreHandle(store.folder)  # since the shards may take hours, in which others append to a store or retry rows
    if store.is_complete and shards.totals.num_shards == spec.num_shards:
        if now.is_complete and now.generation == store.generation:
            for problem in check_tables(now, shards.totals):
                verification.add_problem(problem)
        else:
            verification.not_checked.append("the statistics and the failures: the store was reopened meanwhile")
    try:
        for claim in live_claims(store.folder):
            verification.not_checked.append(f"the shard that process {claim['pid']} on {claim['host']} is writing now")
    except StoreError as error:  # a claim is damaged
        verification.add_problem(str(error))

    num_compared = 0
    sample = Sample()
    with TemporaryDirectory() as scratch:
        source = _open_source(verification, now, Path(scratch))
        if source and request.source:
            num_compared = compare_source(verification, source, *shards.hashes_of_rows())
        if source and model:
            runner = load_runner(model, device, spec.compute.dtype)
            try:
                sample = compare_sample(verification, runner, source, shards.draw(request.num_rows), picture)
            except SourceError as error:  # a file that holds many images may be missing
                verification.not_checked.append(f"whether latents decode to their images: {error}")
    if sample.num_without_image:
        verification.not_checked.append(
            f"{sample.num_without_image} of the {request.num_rows} rows of the sample: their images have changed "
            f"or are missing{'' if request.source else '; --source says where images are now'}"
        )
    return _report(verification, shards, num_compared, sample)


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


def _report(verification: Verification, shards: _CheckedShards, num_compared: int, sample: Sample) -> VerifyReport:
    return VerifyReport(
        store=verification.request.store,
        complete=verification.store.is_complete,
        num_rows=verification.store.spec.num_rows,
        num_ok=shards.totals.num_ok,
        num_failed=shards.totals.num_failed - shards.totals.num_repaired,
        num_repaired=shards.totals.num_repaired,
        num_shards=verification.store.spec.num_shards,
        num_shards_checked=shards.totals.num_shards,
        num_files=shards.num_files,
        num_bytes=shards.num_bytes,
        damaged_records=[record_name(shard) for shard in shards.damaged[:_RECORDS_SHOWN]],
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
