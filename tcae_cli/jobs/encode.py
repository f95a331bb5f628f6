"""`tcae encode-dataset`: a source of images in, a store of latents out; repeating it goes on where it stopped."""

import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tcae_cli.checkpoint import CheckpointHeader, load_autoencoder, read_header
from tcae_cli.data.loader import ImageBatch, load_batches
from tcae_cli.data.partition import batches_of_shard, shards_of_rank
from tcae_cli.data.source import Source, load_source, open_source
from tcae_cli.errors import StoreError, TcaeError, UsageError
from tcae_cli.jobs.encoder import Encoded, LatentEncoder, storable
from tcae_cli.jobs.pipeline import Stopwatch, run_pipeline
from tcae_cli.report import EncodeReport, EncodeRequest, Progress
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import choose_device, default_precision
from tcae_cli.store.commit import finalise, progress_of
from tcae_cli.store.layout import (
    INDEX_FOLDER,
    StoreSpec,
    create_store,
    differences,
    is_store,
    read_spec,
    rows_per_shard,
)
from tcae_cli.store.lease import exclusive, join_store
from tcae_cli.store.writer import ShardInProgress, StoreWriter

_BATCH_SIZE = 64  # images, unless asked for
_EARLY_ROWS = 200  # when over half of the first so many fail, something is wrong with all of them


def encode_dataset(request: EncodeRequest, progress: Progress) -> EncodeReport:
    """Encode every row of the source that the store does not hold yet, and finalise the store after the last.

    Every rank of a launch calls this. Each encodes its own shards; whichever sees all of them committed finalises.
    Raises a TcaeError for a source, model or store that cannot work; what is committed stays.
    """
    header = read_header(request.model)
    device = choose_device(request.device, distributed.local_rank())
    with join_store(request.store, distributed.launch_id(), distributed.rank()) as lease:
        if distributed.rank() == 0:
            _create_or_check(request, header, device)
            lease.announce_ready()
        else:
            lease.wait_for_rank_zero()
        writer = StoreWriter(request.store)
        mine = shards_of_rank(writer.spec.num_shards, distributed.rank(), distributed.world_size())
        todo = sorted(set(mine) - writer.committed())
        run = _Run(request, device, writer, progress)
        if todo:
            run.encode(todo)
        finalised = _finalise(request.store, writer)
    return run.report(finalised)
