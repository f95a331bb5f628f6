"""Encodes the shards of one rank: reads, encodes and writes at the same time, and commits shard by shard."""

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice

import numpy as np
import torch

from tcae_cli.autoencoders.runner import load_runner
from tcae_cli.errors import SourceError
from tcae_cli.images.batch import BatchRows, Crop
from tcae_cli.images.loader import Reading, load_batches
from tcae_cli.images.partition import batches_of_rows
from tcae_cli.images.transform import Transform
from tcae_cli.jobs.encoder import Encoded, LatentEncoder, pack_rows
from tcae_cli.jobs.pipeline import Stage, run_pipeline
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import threads_for_whole_batches
from tcae_cli.sources.source import Source
from tcae_cli.store.claims import ClaimLost, naming_lost_claims
from tcae_cli.store.work import AllWork
from tcae_cli.store.writer import EncodedRows, ShardInProgress, ShardPlan, StoreWriter

_EARLY_ROWS = 200  # when over half of the first so many fail, something is wrong with all of them


@dataclass(frozen=True)
class EncodeRun:
    """One process's run of the command."""

    request: EncodeRequest
    device: torch.device
    progress: Progress


@dataclass(frozen=True)
class Target:
    """A store that is written, by itself or a bucket of one, and the samples that become its rows."""

    writer: StoreWriter
    source_rows: Sequence[int]  # ascending, as many as the store has rows
    transform: Transform

    @property
    def crop(self) -> Crop:
        """Return the way in which images become pixels of its batches."""
        return Crop(self.transform, self.writer.spec.compute.batch_size)


@dataclass
class ShardsReport:
    """The work that this process did."""

    num_rows: int = 0
    num_failed: int = 0
    elapsed_s: float = 0.0  # from loading the model to the last commit
    startup_s: float = 0.0  # of these, until the first batch was read
    stage_seconds: dict[str, float] = field(default_factory=dict)  # busy time: "read", "encode", "pack", "write"

    def and_then(self, later: "ShardsReport") -> "ShardsReport":
        """Return the report of this work and of what was done after it."""
        names = self.stage_seconds | later.stage_seconds
        return ShardsReport(
            num_rows=self.num_rows + later.num_rows,
            num_failed=self.num_failed + later.num_failed,
            elapsed_s=self.elapsed_s + later.elapsed_s,
            startup_s=self.startup_s,
            stage_seconds={
                name: self.stage_seconds.get(name, 0.0) + later.stage_seconds.get(name, 0.0) for name in names
            },
        )


def encode_shards(run: EncodeRun, targets: Sequence[Target], source: Source, work: AllWork) -> ShardsReport:
    """Encode those rows of the shards that `work` gives that are not committed, until all its shards are.

    targets: the stores that the work is on, in its order: the buckets of one, or a store by itself.

    Raises SourceError as soon as most of the first images have failed, unless so many may; what is committed stays.
    """
    started = time.perf_counter()
    plan = work.wait()
    if plan is None:
        return ShardsReport()
    spec = targets[0].writer.spec
    encoder = LatentEncoder(load_runner(run.request.model, run.device, spec.compute.dtype), spec)
    if spec.compute.compiled:
        if not distributed.local_rank():
            run.progress.say("the encoder is being compiled, which takes a while")
        with threads_for_whole_batches(run.device):  # on the CPU, kernels are for a number of threads
            encoder.compile([target.crop for target in targets])
    num_workers = run.request.num_workers
    if num_workers is None:  # this rank's share of the machine's cores
        num_workers = max(1, len(os.sched_getaffinity(0)) // distributed.local_world_size())
    reading = Reading(spec.compute.batch_size, num_workers, pin_memory=run.device.type == "cuda")

    ranks = distributed.world_size()
    label = f"encode, rank {distributed.rank()} of {ranks}" if ranks > 1 else "encode"
    run.progress.start(label, work.num_rows, done=work.num_done)
    pack = partial(_timed_pack, encoder=encoder)
    sink = _Sink(run, targets, source)
    report = sink.report
    # Mostly there is one round. Another one follows if, after it, the shards of a rank that has ended are taken over.
    while plan is not None:
        batches = load_batches(source, sink.batches(plan, work), targets[0].crop.transform, reading)
        try:
            first = list(islice(batches, 1))  # none if all shards have nothing but rows to keep
            report.startup_s = report.startup_s or time.perf_counter() - started
            with threads_for_whole_batches(run.device) as num_threads:
                run_pipeline(chain(first, batches), [Stage(encoder, num_threads), Stage(pack)], sink.write)
            sink.commit_kept()
            report.elapsed_s = time.perf_counter() - started
        finally:
            batches.close()
            sink.close()
        plan = work.wait()
    # The workers, and the threads, of a stage work side by side: it is busy when all of them are.
    report.stage_seconds["read"] /= max(1, num_workers)
    report.stage_seconds["encode"] /= num_threads
    return report


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


class _Sink:
    """Takes packed batches in order and commits a shard when its last row has come."""

    def __init__(self, run: EncodeRun, targets: Sequence[Target], source: Source) -> None:
        self._run, self._targets, self._source = run, targets, source
        # Batches on their way here, each with its shard, and the shards of which none comes, with all their rows.
        self._under_way: deque[tuple[ShardPlan, range]] = deque()
        self._plan: ShardPlan | None = None  # of the shard that batches come of
        self._shard: ShardInProgress | None = None  # None also where another rank has taken it over
        self.report = ShardsReport(stage_seconds=dict.fromkeys(("read", "encode", "pack", "write"), 0.0))

    def batches(self, first: ShardPlan, work: AllWork) -> Iterator[BatchRows]:
        """Yield the batches that hold rows to encode, as rows of the source, cut alike whatever is left of a shard.

        A shard is taken when its first batch is asked for, which is a few batches before it comes here.
        """
        plan: ShardPlan | None = first
        while plan is not None:
            target = self._targets[plan.store]
            crop, samples = target.crop, target.source_rows
            todo = set(plan.todo) if plan.record else None
            if not plan.todo:
                self._under_way.append((plan, plan.rows))
            for rows in batches_of_rows(plan.rows.start, plan.rows.stop, crop.batch_size):
                asked = None if todo is None else tuple(int(samples[row]) for row in rows if row in todo)
                if asked is None or asked:
                    self._under_way.append((plan, rows))
                    yield BatchRows(_samples(target, rows), asked, crop=crop)
            plan = work.take()

    def write(self, packed: _Packed) -> None:
        """Store a batch."""
        started = time.perf_counter()
        self.commit_kept()
        is_first = self._plan is None
        plan, of_store = self._under_way.popleft()
        self._plan = plan
        self._count(packed.rows)
        rows = packed.rows.numbered(of_store)
        is_last = rows.todo[-1] == plan.todo[-1]
        with self._giving_up_if_lost(plan):
            if is_first:
                self._shard = self._begin(plan)
            if self._shard:
                self._shard.add(rows)
                if is_last:
                    self._shard.commit()
        if is_last:
            if self._shard is None:
                self.report.num_rows -= len(plan.todo)
            self._plan = self._shard = None
        self._run.progress.advance(len(rows.todo), sum(failure.counts for failure in rows.failures.values()))
        stages = self.report.stage_seconds
        for stage, seconds in packed.seconds.items():
            stages[stage] += seconds
        stages["write"] += time.perf_counter() - started

    def commit_kept(self) -> None:
        """Commit the shards before the next batch that have no row to encode, from the rows that they keep."""
        while self._under_way and not self._under_way[0][0].todo:
            plan, _ = self._under_way.popleft()
            with self._giving_up_if_lost(plan):
                self._shard = self._begin(plan)
                self._shard.commit()
            self._shard = None

    @contextmanager
    def _giving_up_if_lost(self, plan: ShardPlan) -> Iterator[None]:
        """Drop the shard, and say so, if another rank has taken it over."""
        try:
            with naming_lost_claims(plan.claim):
                yield
        except ClaimLost as error:
            self.close()
            self._run.progress.say(f"{error}; rank {distributed.rank()} gives it up and takes another")

    def _begin(self, plan: ShardPlan) -> ShardInProgress:
        target = self._targets[plan.store]
        samples = _samples(target, plan.rows)
        has_captions = target.writer.spec.has_captions
        captions = [self._source.caption(row) for row in samples] if has_captions else None
        keys = self._source.keys(samples)
        labels = np.array([self._source.label(row) for row in samples], np.int64)
        self._source.release()
        return target.writer.begin(plan, keys=keys, labels=labels, captions=captions)

    def close(self) -> None:
        """Drop a shard that did not come to its end."""
        if self._shard:
            self._shard.abandon()
        self._shard = None

    def _count(self, rows: EncodedRows) -> None:
        report = self.report
        report.num_rows += len(rows.todo)
        report.num_failed += sum(failure.counts for failure in rows.failures.values())
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


def _samples(target: Target, rows: range) -> Sequence[int]:
    """Return the samples of the source that rows of a store are of."""
    samples = target.source_rows[rows.start : rows.stop]
    return samples if isinstance(samples, range) else tuple(int(sample) for sample in samples)
