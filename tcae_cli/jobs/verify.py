"""`tcae verify`: every shard against its record, every row against its image, a sample against what it decodes to."""

import os
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tcae_cli.autoencoders.by_name import read_card
from tcae_cli.errors import NotFoundError, SourceError, StoreError
from tcae_cli.jobs.pipeline import Stage, run_pipeline
from tcae_cli.jobs.verify_sample import Sample, compare_sample
from tcae_cli.jobs.verify_source import compare_source, open_compared_source
from tcae_cli.reports.progress import Progress
from tcae_cli.reports.store import VerifyReport, VerifyRequest
from tcae_cli.runtime.device import choose_device
from tcae_cli.runtime.folder import Folder, open_folder
from tcae_cli.sources.source import Source, load_source
from tcae_cli.store.check_shard import ShardCheck, ShardChecker
from tcae_cli.store.check_tables import check_arrays, check_tables
from tcae_cli.store.claim import live_claims
from tcae_cli.store.commit import Totals
from tcae_cli.store.layout import index_folder, is_complete, read_spec
from tcae_cli.store.record import record_name
from tcae_cli.store.spec import StoreSpec

_MOST_PROBLEMS = 100  # sentences kept; all are counted
_MOST_THREADS = 4  # each holds a file of a shard
_RECORDS_SHOWN = 10
_SEED = 0


@dataclass
class Findings:
    """What is wrong, and what could not be looked at."""

    problems: list[str] = field(default_factory=list)  # the first of them
    num_problems: int = 0
    not_checked: list[str] = field(default_factory=list)

    def add(self, sentence: str) -> None:
        """Count a problem."""
        self.num_problems += 1
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(sentence)


@dataclass
class _Shards:
    """What the shards are, added up in their order."""

    totals: Totals = field(default_factory=Totals)
    num_files: int = 0
    num_bytes: int = 0
    damaged: list[int] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)  # ok rows whose image's hash is known
    hashes: list[np.ndarray] = field(default_factory=list)
    sound_rows: list[np.ndarray] = field(default_factory=list)  # those of them in shards without a problem


def verify_store(request: VerifyRequest, progress: Progress) -> VerifyReport:
    """Check a store; what is wrong with it is in the report.

    Raises StoreError if there is no store, or the model's encoder is not the one that made the latents; NotFoundError
    for a --source or --model that leads nowhere.
    """
    started = time.perf_counter()
    folder = open_folder(request.store)
    spec, findings = read_spec(folder), Findings()
    model = _model(request, folder, spec, findings)  # refused before hours of work
    device = choose_device(request.device)

    complete = is_complete(folder)
    shards = _check_shards(folder, spec, complete, findings, progress)
    if complete and shards.totals.num_shards == spec.num_shards:
        for problem in check_tables(folder, shards.totals):
            findings.add(problem)
    for claim in live_claims(folder):
        findings.not_checked.append(f"what process {claim['pid']} on {claim['host']} is writing now")

    with TemporaryDirectory() as scratch:
        source, num_compared = _source(request, folder, Path(scratch), findings, progress), 0
        rows, hashes = _joined(shards.rows, np.int64), _joined(shards.hashes, np.uint64)
        if request.source and source:
            num_compared = compare_source(source, rows, hashes, findings.add, progress)
        sample = Sample()
        if model and source:
            chosen = _sample(shards, request.num_rows)
            wanted = dict(zip(chosen, hashes[np.searchsorted(rows, chosen)].tolist(), strict=True))
            sample = compare_sample(folder, model, device, source, wanted, _picture(request), findings.add, progress)
        if sample.num_without_image:
            findings.not_checked.append(
                f"{sample.num_without_image} of the {request.num_rows} rows of the sample: their images have changed "
                f"or are gone{'' if request.source else '; --source says where images are now'}"
            )
    return _report(request, spec, complete, shards, findings, sample, num_compared, started)


def _check_shards(folder: Folder, spec: StoreSpec, complete: bool, findings: Findings, progress: Progress) -> _Shards:
    """Every shard that has a record, several at a time."""
    array_problems = check_arrays(folder)
    for problem in array_problems:
        findings.add(problem)
    checker, shards = ShardChecker(folder, with_side_arrays=not array_problems), _Shards()
    progress.start("check", spec.num_rows, unit="rows")
    take = partial(_take, spec=spec, complete=complete, shards=shards, findings=findings, progress=progress)
    num_threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    run_pipeline(range(spec.num_shards), [Stage(checker.check, num_threads)], take)
    return shards


def _take(
    found: ShardCheck, *, spec: StoreSpec, complete: bool, shards: _Shards, findings: Findings, progress: Progress
) -> None:
    """Add a shard; they come in order."""
    for problem in found.problems:
        findings.add(problem)
    if found.record is None and not found.problems and complete:
        findings.add(f"{record_name(found.shard)} is missing, though the store is complete; repeat tcae encode-dataset")
    if found.problems:
        shards.damaged.append(found.shard)
    if found.record:
        shards.totals.add(found.record)
    shards.num_files += found.num_files
    shards.num_bytes += found.num_bytes
    if found.content_hashes is not None:
        rows = np.array(found.ok_rows, np.int64)
        shards.rows.append(rows)
        shards.hashes.append(found.content_hashes)
        if not found.problems:
            shards.sound_rows.append(rows)
    progress.advance(len(spec.rows_of_shard(found.shard)))


def _model(request: VerifyRequest, folder: Folder, spec: StoreSpec, findings: Findings) -> str | None:
    """The name of the model to decode with; None if there is none, or no sample is asked for."""
    if not request.num_rows:
        return None
    name = request.model or spec.encoder.name
    try:
        found = read_card(name).encoder_hash
    except NotFoundError as error:
        if request.model:
            raise
        findings.not_checked.append(f"what latents decode to: {error}, with --model")
        return None
    if found != spec.encoder.hash:
        raise StoreError(
            f"{folder.uri} was made with encoder {spec.encoder.hash[:12]} ({spec.encoder.name}), {name} has "
            f"{found[:12]}; pass --model with the first, or --rows 0 to decode nothing"
        )
    return name


def _source(
    request: VerifyRequest, folder: Folder, scratch: Path, findings: Findings, progress: Progress
) -> Source | None:
    """The images, in the rows of the store; None if nothing is known of them."""
    if request.source:
        return open_compared_source(request.source, folder, scratch, findings.add, progress)
    try:
        return load_source(folder.fetch(index_folder(read_spec(folder)), scratch))
    except (SourceError, OSError) as error:
        findings.not_checked.append(f"what latents decode to: the store's list of images cannot be read ({error})")
        return None


def _sample(shards: _Shards, num_rows: int) -> list[int]:
    """Rows drawn from those of sound shards, the same ones every time, ascending."""
    sound = _joined(shards.sound_rows, np.int64)
    chosen = np.random.default_rng(_SEED).choice(sound, min(num_rows, len(sound)), replace=False)
    return sorted(chosen.tolist())


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *parts])


def _picture(request: VerifyRequest) -> Path:
    name = request.store.rstrip("/").rpartition("/")[2].removesuffix(".zarr")
    return request.picture or Path(f"{name}-verify.png")


def _report(
    request: VerifyRequest,
    spec: StoreSpec,
    complete: bool,
    shards: _Shards,
    findings: Findings,
    sample: Sample,
    num_compared: int,
    started: float,
) -> VerifyReport:
    return VerifyReport(
        store=request.store,
        complete=complete,
        num_rows=spec.num_rows,
        num_ok=shards.totals.num_ok,
        num_failed=shards.totals.num_failed,
        num_shards=spec.num_shards,
        num_shards_checked=shards.totals.num_shards,
        num_files=shards.num_files,
        num_bytes=shards.num_bytes,
        damaged_records=[record_name(shard) for shard in shards.damaged[:_RECORDS_SHOWN]],
        source=request.source,
        num_compared=num_compared,
        sample=sample.rows,
        mean_psnr=sample.mean_psnr(),
        picture=sample.picture,
        problems=findings.problems,
        num_problems=findings.num_problems,
        not_checked=findings.not_checked,
        elapsed_s=time.perf_counter() - started,
    )
