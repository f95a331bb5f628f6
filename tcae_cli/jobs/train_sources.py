"""What must hold before a run may start: its batches, its folder and its images, which are indexed."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tcae_cli.errors import FieldError, NotFoundError, SourceError, UsageError
from tcae_cli.jobs.scanned_folders import source_around
from tcae_cli.recipe.schema import Recipe
from tcae_cli.reports.progress import Progress
from tcae_cli.reports.train import TrainRequest
from tcae_cli.sources.registry import fields_not_taken
from tcae_cli.sources.shared_fields import open_with_usable, refuse_unused
from tcae_cli.sources.source import Source
from tcae_cli.tracking.log import CURVES_FILE, METRICS_FILE, TENSORBOARD_FOLDER
from tcae_cli.training.sharding import checkpoints_blocks
from tcae_cli.training.state import STATE_FILE
from tcae_cli.training.views.stream import DEFAULT_BUFFER
from tcae_cli.training.views.tar_stream import is_stream

# What a run writes before its first checkpoint.
_WITHOUT_A_CHECKPOINT = {"index", "index-val", "recipe.yaml", "reconstructions"}
_WITHOUT_A_CHECKPOINT |= {METRICS_FILE, CURVES_FILE, TENSORBOARD_FOLDER}


def check_batch_size(recipe: Recipe, num_ranks: int) -> None:
    """Raise UsageError unless so many ranks can share a batch in equal parts."""
    batch_size, accumulate = recipe.train.batch_size, recipe.train.accumulate
    if batch_size % (num_ranks * accumulate):
        raise UsageError(
            f"train.batch_size {batch_size} cannot be shared among {num_ranks} ranks"
            + (f" in {accumulate} micro-batches each" if accumulate > 1 else "")
            + f"; use a multiple of {num_ranks * accumulate}"
        )


def micro_batch_size(recipe: Recipe, num_ranks: int) -> int:
    """Return how many images a rank computes at a time."""
    return recipe.train.batch_size // (recipe.train.accumulate * num_ranks)


def settings_for_less_memory(recipe: Recipe, num_ranks: int) -> list[str]:
    """Return the settings, as `--set` takes them, that take less memory and train the same model; [] if none is left.

    They are of train.accumulate and train.checkpointing, which a resumed run may change.
    """
    micro_batch = micro_batch_size(recipe, num_ranks)
    settings = []
    if micro_batch > 1:
        parts = next(parts for parts in range(2, micro_batch + 1) if micro_batch % parts == 0)
        settings.append(f"train.accumulate={parts * recipe.train.accumulate}")
    if not checkpoints_blocks(recipe):
        settings.append("train.checkpointing=true")
    return settings


def refuse_other_runs(request: TrainRequest) -> None:
    """Raise UsageError if the run's folder holds another run or other files, or is none.

    A run that stopped before its first checkpoint left nothing to resume from, so it may be started again.
    """
    run = request.out
    if run.exists() and not run.is_dir():
        raise UsageError(f"{run} is a file; give --out a folder")
    names = {path.name for path in run.iterdir()} if run.exists() else set()
    if STATE_FILE in names:
        if not request.resume:
            raise UsageError(f"{run} exists; continue it with --resume, or give another --out")
    elif others := sorted(name for name in names - _WITHOUT_A_CHECKPOINT if not name.startswith(".")):
        raise UsageError(f"{run} holds {others[0]}, and no {STATE_FILE} to resume from; give another --out")
    folders = [data for data in (request.data, request.val) if data and os.path.isdir(data)]
    if not request.resume and (source := source_around(run, [Path(data) for data in folders])):
        raise UsageError(f"{run} lies in {source}, whose next scan would find the run's pictures; give another --out")


def index_sources(request: TrainRequest, folder: Path, progress: Progress) -> Source | None:
    """Index the training and the validation images in a folder; return the training images, None for a stream.

    A field that one of the two cannot use is the other one's alone.
    Raises UsageError, NotFoundError or SourceError for images that cannot be used.
    """
    source, unused = _index_data(request, folder, progress)
    if request.val is None:
        return source
    # Both may have splits, of which the data's is named.
    fields = request.fields if "split" in unused else replace(request.fields, split=None)
    with _advising(request.val_advice):
        _, unused_by_val = open_with_usable(request.val, folder / "index-val", fields, progress)
    refuse_unused(unused, unused_by_val)
    for error in unused.values():
        progress.say(f"{error.option} is for {request.val} alone: {request.data} has nothing to choose by it")
    for error in unused_by_val.values():
        progress.say(f"{error.option} is for {request.data} alone: {request.val} has nothing to choose by it")
    return source


def _index_data(
    request: TrainRequest, folder: Path, progress: Progress
) -> tuple[Source | None, Mapping[str, FieldError]]:
    """Index the training images; return them, and the fields that they cannot use, as open_with_usable does."""
    if is_stream(request.data):
        unused = fields_not_taken(request.data, "a stream", request.fields, frozenset())
        if request.val is None:
            refuse_unused(unused)
            raise UsageError(f"{request.data} is a stream, which cannot serve for validation; give images with --val")
        return None, unused
    with _advising(request.data_advice):
        source, unused = open_with_usable(request.data, folder / "index", request.fields, progress)
    if request.val is None:
        refuse_unused(unused)
    if source.access != "row" and request.recipe.data.shuffle_buffer is None:
        progress.say(
            f"{request.data} is read in order, so its images are shuffled in a buffer of {DEFAULT_BUFFER:,}; "
            f"change it with --set data.shuffle_buffer=N"
        )
    if len(source) < request.recipe.train.batch_size:
        raise SourceError(
            f"{request.data} has {len(source)} images, fewer than train.batch_size "
            f"{request.recipe.train.batch_size}; use more images, or --set train.batch_size={len(source)}"
        )
    return source, unused


@contextmanager
def _advising(advice: str) -> Iterator[None]:
    """Let the sentence that says why a source cannot be used end with how to name another one, where that is known."""
    try:
        yield
    except (SourceError, NotFoundError) as error:
        if not advice:
            raise
        raise type(error)(f"{error}; or {advice}") from error
