"""The shards of one rank: read, encode and write at the same time, a commit a shard."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch

from tcae_cli.checkpoint import load_autoencoder
from tcae_cli.data.loader import load_batches
from tcae_cli.data.partition import batches_of_shard
from tcae_cli.data.source import Source, load_source
from tcae_cli.errors import SourceError
from tcae_cli.jobs.encoder import Encoded, LatentEncoder, storable
from tcae_cli.jobs.pipeline import run_pipeline
from tcae_cli.report import EncodeRequest, Progress
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import threads_for_whole_batches
from tcae_cli.store.layout import INDEX_FOLDER
from tcae_cli.store.writer import EncodedRows, ShardInProgress, StoreWriter

_EARLY_ROWS = 200  # when over half of the first so many fail, something is wrong with all of them


@dataclass
class ShardsReport:
    """What this process did."""

    num_rows: int = 0
    num_failed: int = 0
    elapsed_s: float = 0.0  # from the first batch to the last commit
    stage_seconds: dict[str, float] = field(default_factory=dict)  # busy time: "read", "encode", "write"


def encode_shards(
    request: EncodeRequest, writer: StoreWriter, shards: Sequence[int], device: torch.device, progress: Progress
) -> ShardsReport:
    """Encode those of the shards that are not committed.

    Raises SourceError as soon as most of the first images have failed; what is committed stays.
    """
    spec, report = writer.spec, ShardsReport()
    committed = writer.committed(shards)
    todo = [spec.rows_of_shard(shard) for shard in shards if shard not in committed]
    if not todo:
        return report

    source = load_source(request.store / INDEX_FOLDER)
    encoder = LatentEncoder(load_autoencoder(request.model, device).encode, device, spec.compute.dtype)
    num_workers = _default_workers() if request.num_workers is None else request.num_workers
    batches = load_batches(
        source,
        [batch for rows in todo for batch in batches_of_shard(rows.start, rows.stop, spec.compute.batch_size)],
        batch_size=spec.compute.batch_size,
        size=spec.transform.size,
        resize=spec.transform.resize,
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
    )
    num_before = sum(len(spec.rows_of_shard(shard)) for shard in committed)
    progress.start(_label(), num_before + sum(map(len, todo)), done=num_before)
    sink = _Sink(writer, source, encoder, report, progress)
    try:
        first = next(batches)  # start-up ends here
        started = time.perf_counter()
        with threads_for_whole_batches(device) as num_threads:
            run_pipeline(chain([first], batches), encoder, sink.write, num_threads)
        report.elapsed_s = time.perf_counter() - started
    finally:
        batches.close()
        sink.close()
    # Those work side by side, so a stage is busy when all of its own are.
    report.stage_seconds["read"] /= max(1, num_workers)
    report.stage_seconds["encode"] /= num_threads
    return report


class _Sink:
    """Takes encoded batches in order and commits a shard when its last row is there."""

    def __init__(
        self,
        writer: StoreWriter,
        source: Source,
        encoder: LatentEncoder,
        report: ShardsReport,
        progress: Progress,
    ) -> None:
        self._writer, self._source, self._encoder = writer, source, encoder
        self._report, self._progress = report, progress
        self._stages = report.stage_seconds
        self._stages |= {"read": 0.0, "encode": 0.0, "write": 0.0}
        self._shard: ShardInProgress | None = None

    def write(self, encoded: Encoded) -> None:
        """Store a batch."""
        encode_s = encoded.wait()
        started = time.perf_counter()
        batch, spec = encoded.batch, self._writer.spec
        latents, failures = storable(encoded, self._encoder, spec.dtype)
        self._count(batch.rows, failures)
        number, slot = divmod(batch.rows[0], spec.rows_per_shard)
        if slot == 0:
            self._shard = self._begin(number)
        assert self._shard
        self._shard.add(
            EncodedRows(batch.rows, latents, batch.original_sizes, batch.crops, batch.content_hashes, failures)
        )
        if batch.rows[-1] == spec.rows_of_shard(number)[-1]:
            self._shard.commit()
            self._shard = None
        self._progress.advance(len(batch.rows), len(failures))
        self._stages["read"] += batch.decode_s
        self._stages["encode"] += encode_s
        self._stages["write"] += time.perf_counter() - started

    def close(self) -> None:
        """Drop a shard that did not come to its end."""
        if self._shard:
            self._shard.abandon()

    def _begin(self, number: int) -> ShardInProgress:
        rows = self._writer.spec.rows_of_shard(number)
        return self._writer.begin(
            number,
            keys=self._source.keys(rows),
            labels=self._source.labels(rows.start, rows.stop),
            captions=[self._source.caption(row) for row in rows] if self._writer.spec.has_captions else None,
        )

    def _count(self, rows: list[int], failures: dict[int, tuple[str, str]]) -> None:
        report = self._report
        report.num_rows += len(rows)
        report.num_failed += len(failures)
        if report.num_rows <= _EARLY_ROWS + len(rows) and report.num_failed > _EARLY_ROWS // 2:
            row, (_, error) = next(iter(failures.items()))
            raise SourceError(
                f"{self._source.uri}: {report.num_failed} of the first {report.num_rows} images failed, "
                f"{self._source.key(row)} because: {error}; put the source right and repeat"
            )


def _default_workers() -> int:
    """Decoding processes of a rank: its share of the machine's cores."""
    return max(1, len(os.sched_getaffinity(0)) // distributed.local_world_size())


def _label() -> str:
    ranks = distributed.world_size()
    return f"encode, rank {distributed.rank()} of {ranks}" if ranks > 1 else "encode"
