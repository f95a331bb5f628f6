"""What must hold before a run may start: its batches, its folder and its images, which are indexed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tcae_cli.errors import NotFoundError, SourceError, UsageError
from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.recipe.schema import Recipe
from tcae_cli.reports.progress import Progress
from tcae_cli.reports.train import TrainRequest
from tcae_cli.sources.registry import refuse_other_fields
from tcae_cli.sources.source import Source, find_kind, open_source
from tcae_cli.training.views.stream import DEFAULT_BUFFER
from tcae_cli.training.views.tar_stream import is_stream


def check_batch_size(recipe: Recipe, num_ranks: int) -> None:
    """Raise UsageError unless so many ranks can share a batch in equal parts."""
    batch_size, accumulate = recipe.train.batch_size, recipe.train.accumulate
    if batch_size % (num_ranks * accumulate):
        raise UsageError(
            f"train.batch_size {batch_size} cannot be shared among {num_ranks} ranks"
            + (f" in {accumulate} micro-batches each" if accumulate > 1 else "")
            + f"; use a multiple of {num_ranks * accumulate}"
        )


def refuse_other_runs(request: TrainRequest) -> None:
    """Raise UsageError if the run's folder holds another run, or is none."""
    run = request.out
    if run.exists() and not run.is_dir():
        raise UsageError(f"{run} is a file; give --out a folder")
    if not request.resume and run.exists() and any(run.iterdir()):
        raise UsageError(f"{run} exists; continue it with --resume, or give another --out")


def index_sources(request: TrainRequest, folder: Path, progress: Progress) -> Source | None:
    """Index the training and the validation images in a folder; return the training images, None for a stream.

    Raises UsageError, NotFoundError or SourceError for images that cannot be used.
    """
    source = None
    if not is_stream(request.data):
        with _advising(request.data_advice):
            source = open_source(request.data, folder / "index", request.fields, progress)
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
    else:
        refuse_other_fields(request.data, "a stream", request.fields, frozenset())
        if request.val is None:
            raise UsageError(f"{request.data} is a stream, which cannot serve for validation; give images with --val")
    if request.val is not None:
        with _advising(request.val_advice):
            open_source(request.val, folder / "index-val", _fields_of_val(request, request.val), progress)
    return source


def _fields_of_val(request: TrainRequest, val: str) -> SampleFields:
    """Return the fields of the images for validation: those of the data, if both are of one kind."""
    if is_stream(request.data) or type(find_kind(val)) is not type(find_kind(request.data)):
        return NO_FIELDS
    return replace(request.fields, split=None)


@contextmanager
def _advising(advice: str) -> Iterator[None]:
    """Let the sentence that says why a source cannot be used end with how to name another one, where that is known."""
    try:
        yield
    except (SourceError, NotFoundError) as error:
        if not advice:
            raise
        raise type(error)(f"{error}; or {advice}") from error
