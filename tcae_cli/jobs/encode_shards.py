"""Encodes the shards of one rank: reads, encodes and writes at the same time, and commits shard by shard."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import torch

from tcae_cli.autoencoders.runner import load_runner
from tcae_cli.errors import SourceError
from tcae_cli.images.loader import BatchRows, Reading, load_batches
from tcae_cli.images.partition import batches_of_rows
from tcae_cli.images.transform import Transform
from tcae_cli.jobs.encoder import Encoded, LatentEncoder, pack_rows
from tcae_cli.jobs.pipeline import Stage, run_pipeline
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import threads_for_whole_batches
from tcae_cli.sources.source import Source
from tcae_cli.store.writer import EncodedRows, ShardInProgress, ShardPlan, StoreWriter

_EARLY_ROWS = 200  # when over half of the first so many fail, something is wrong with all of them


@dataclass(frozen=True)
class EncodeRun:
    """One process's run of the command."""

    request: EncodeRequest
    device: torch.device
    progress: Progress


@dataclass
class ShardsReport:
    """The work that this process did."""

    num_rows: int = 0
    num_failed: int = 0
    elapsed_s: float = 0.0  # from loading the model to the last commit
    startup_s: float = 0.0  # of these, until the first batch was read
    stage_seconds: dict[str, float] = field(default_factory=dict)  # busy time: "read", "encode", "pack", "write"


def encode_shards(run: EncodeRun, writer: StoreWriter, source: Source, shards: Sequence[int]) -> ShardsReport:
    """Encode those rows of the shards that are not committed.

    Raises SourceError as soon as most of the first images have failed, unless so many may; what is committed stays.
    """
    started = time.perf_counter()
    spec, plans = writer.spec, writer.plan(shards)
    if not plans:
        return ShardsReport()
    encoder = LatentEncoder(load_runner(run.request.model, run.device, spec.compute.dtype), spec)
    num_workers = run.request.num_workers
    if num_workers is None:  # this rank's share of the machine's cores
        num_workers = max(1, len(os.sched_getaffinity(0)) // distributed.local_world_size())
    batches = load_batches(
        source,
        _batches(plans, spec.compute.batch_size),
        Transform.of_store(spec),
        Reading(spec.compute.batch_size, num_workers, pin_memory=run.device.type == "cuda"),
    )

    ranks = distributed.world_size()
    label = f"encode, rank {distributed.rank()} of {ranks}" if ranks > 1 else "encode"
    num_all = sum(len(spec.rows_of_shard(shard)) for shard in shards)
    run.progress.start(label, num_all, done=num_all - sum(len(plan.todo) for plan in plans))
    pack = partial(_timed_pack, encoder=encoder)
    sink = _Sink(run, writer, source, plans)
    try:
        first = next(batches)
        sink.report.startup_s = time.perf_counter() - started
        with threads_for_whole_batches(run.device) as num_threads:
            run_pipeline(chain([first], batches), [Stage(encoder, num_threads), Stage(pack)], sink.write)
        sink.report.elapsed_s = time.perf_counter() - started
    finally:
        batches.close()
        sink.close()
    # The workers, and the threads, of a stage work side by side: it is busy when all of them are.
    sink.report.stage_seconds["read"] /= max(1, num_workers)
    sink.report.stage_seconds["encode"] /= num_threads
    return sink.report


@dataclass(frozen=True)
class _Packed:
    rows: EncodedRows
    seconds: Mapping[str, float]


def _timed_pack(encoded: Encoded, *, encoder: LatentEncoder) -> _Packed:
    encode_s = encoded.wait()
    started = time.perf_counter()
    rows = pack_rows(encoded, encoder)
    pack_s = time.perf_counter() - started
    return _Packed(rows, {"read": encoded.batch.decode_s, "encode": encode_s, "pack": pack_s})


def _batches(plans: Sequence[ShardPlan], batch_size: int) -> Iterator[BatchRows]:
    """Yield the batches of the shards that hold rows to encode, cut in the same way whatever is left of a shard."""
    for plan in plans:
        todo = set(plan.todo) if plan.record else None
        for rows in batches_of_rows(plan.rows.start, plan.rows.stop, batch_size):
            of_batch = None if todo is None else tuple(row for row in rows if row in todo)
            if of_batch is None or of_batch:
                yield BatchRows(rows, of_batch)


class _Sink:
    """Takes packed batches in order and commits a shard when its last row has come."""

    def __init__(self, run: EncodeRun, writer: StoreWriter, source: Source, plans: Sequence[ShardPlan]) -> None:
        self._run, self._writer, self._source = run, writer, source
        self._plans, self._last_row = iter(plans), -1
        self._shard: ShardInProgress | None = None
        self.report = ShardsReport(stage_seconds=dict.fromkeys(("read", "encode", "pack", "write"), 0.0))

    def write(self, packed: _Packed) -> None:
        """Store a batch."""
        started = time.perf_counter()
        rows = packed.rows
        self._count(rows)
        if self._shard is None:
            plan = next(self._plans)
            self._last_row = plan.todo[-1]
            captions = [self._source.caption(row) for row in plan.rows] if self._writer.spec.has_captions else None
            keys = self._source.keys(plan.rows)
            labels = self._source.labels(plan.rows.start, plan.rows.stop)
            self._source.release()
            self._shard = self._writer.begin(plan, keys=keys, labels=labels, captions=captions)
        self._shard.add(rows)
        if rows.todo[-1] == self._last_row:
            self._shard.commit()
            self._shard = None
        self._run.progress.advance(len(rows.todo), len(rows.failures))
        stages = self.report.stage_seconds
        for stage, seconds in packed.seconds.items():
            stages[stage] += seconds
        stages["write"] += time.perf_counter() - started

    def close(self) -> None:
        """Drop a shard that did not come to its end."""
        if self._shard:
            self._shard.abandon()

    def _count(self, rows: EncodedRows) -> None:
        report = self.report
        report.num_rows += len(rows.todo)
        report.num_failed += len(rows.failures)
        if self._run.request.retry_failed:  # these have failed before, and may again
            return
        is_early = report.num_rows <= _EARLY_ROWS + len(rows.todo) and report.num_failed > _EARLY_ROWS // 2
        if is_early and self._run.request.max_failures.exceeded(report.num_failed, report.num_rows):
            failure = next(iter(rows.failures.values()))
            raise SourceError(
                f"{self._source.uri}: {report.num_failed} of the first {report.num_rows} images failed, "
                f"{failure.path} because: {failure.error}; put the source right and repeat with --retry-failed, "
                f"or allow this with --max-failures 100%"
            )
