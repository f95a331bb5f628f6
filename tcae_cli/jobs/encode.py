"""`tcae encode-dataset`: a source of images in, a store of latents out; repeating it goes on where it stopped."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from tcae_cli.checkpoint import CheckpointHeader, load_autoencoder, read_header
from tcae_cli.data.loader import ImageBatch, load_batches
from tcae_cli.data.partition import batches_of_shard, shards_of_rank
from tcae_cli.data.source import Source, load_source, open_source
from tcae_cli.errors import StoreError, TcaeError, UsageError
from tcae_cli.jobs.encoder import Encoded, LatentEncoder, storable
from tcae_cli.jobs.pipeline import run_pipeline
from tcae_cli.report import EncodeReport, EncodeRequest, Progress
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import choose_device, default_precision
from tcae_cli.store import commit
from tcae_cli.store.layout import StoreSpec, create_store, differences, is_store, read_spec, rows_per_shard
from tcae_cli.store.lease import exclusive, join_store
from tcae_cli.store.writer import ShardInProgress, StoreWriter

_EARLY_ROWS = 200  # when over half of the first so many fail, something is wrong with all of them
_INDEX = Path(".tcae/index")
_BATCH_SIZE = 64


def encode_dataset(request: EncodeRequest, progress: Progress) -> EncodeReport:
    """Encode every row of the source that the store does not hold yet, and finalise the store after the last.

    Every rank of a launch calls this; each encodes its own shards, and whichever sees all of them committed finalises.
    Raises a TcaeError for a source, model or store that cannot work; what is committed stays.
    """
    started = time.perf_counter()
    header = read_header(request.model)
    with join_store(request.store, distributed.launch_id(), distributed.rank()) as lease:
        spec, source = _agree_on_the_store(request, header)
        lease.ready()
        writer = StoreWriter(request.store)
        mine = shards_of_rank(writer.num_shards, distributed.rank(), distributed.world_size())
        todo = [shard for shard in mine if shard not in writer.committed()]
        run = _Run(request, spec, source, writer, progress)
        if todo:
            run.encode(todo)
        finalised = _finalise_when_complete(writer)
    return run.report(finalised, time.perf_counter() - started)


def _agree_on_the_store(request: EncodeRequest, header: CheckpointHeader) -> tuple[StoreSpec, Source]:
    """The store's spec and the source, as rank 0 created or checked them; the other ranks wait for it."""
