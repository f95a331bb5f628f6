"""`tcae train` and `tcae finetune`: train a recipe's model on a source of images, and write a run folder."""

import math
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Self

import torch

from tcae_cli.autoencoders.checkpoint import MODEL_FILE
from tcae_cli.errors import DeviceMemoryError, TcaeError
from tcae_cli.jobs.train_sources import (
    check_batch_size,
    index_sources,
    micro_batch_size,
    refuse_other_runs,
    settings_for_less_memory,
)
from tcae_cli.recipe.schema import Recipe, TrainSpec
from tcae_cli.reports.progress import Progress, Silent
from tcae_cli.reports.train import TrainReport, TrainRequest
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import choose_device, float32_products, memory_errors
from tcae_cli.runtime.files import make_folder
from tcae_cli.runtime.process_group import process_group, sum_over_ranks, wait_for_all_ranks
from tcae_cli.sources.source import Source
from tcae_cli.sources.tar import TarShards
from tcae_cli.training.collapse import CollapseWatch
from tcae_cli.training.cost import peak_images_per_s
from tcae_cli.training.interval import Interval, note
from tcae_cli.training.journal import Journal
from tcae_cli.training.run import Run, save, start
from tcae_cli.training.sharding import is_sharded
from tcae_cli.training.state import STATE_FILE
from tcae_cli.training.step import training_step
from tcae_cli.training.views.batches import TrainingViews, load_training_batches
from tcae_cli.training.views.crops import TrainingBatch
from tcae_cli.training.views.group_stream import RowGroups
from tcae_cli.training.views.stream import StreamedFiles, TrainingStream, stream_training_batches
from tcae_cli.training.views.tar_stream import Tars, expand_tars, is_stream


def train(request: TrainRequest, progress: Progress) -> TrainReport:
    """Train the recipe's model on the source; resumable from its last checkpoint, on one rank of a CPU to the bit.

    Started on several ranks, they share each batch. Raises a TcaeError for a source, recipe, run folder or weights that
    cannot work, for a loss that is not finite, a full disk or a lost rank; the last checkpoint stays valid.
    """
    device = choose_device(request.device)
    precision = request.recipe.train.float32_products
    with process_group(device), float32_products(device, precision), _naming_the_micro_batches(request):
        return _train(request, device, progress if distributed.rank() == 0 else Silent())


def _train(request: TrainRequest, device: torch.device, progress: Progress) -> TrainReport:
    recipe = request.recipe
    _index_images(request, progress)
    images, validation_images = _load_sources(request)
    run = start(request, images, device, progress)
    if device.type == "cuda":
        progress.say(precision_words(recipe))
    journal = Journal(run, validation_images)

    steps = range(run.state.step, recipe.train.steps)
    progress.start("train", recipe.train.steps, done=run.state.step, unit="steps")
    started_at = time.perf_counter()
    interval = Interval(peak_images_per_s(recipe, device))
    distillation = recipe.loss.self_distillation
    watch = CollapseWatch(distillation.num_prototypes) if distillation else None
    figures: dict[str, float] = {}

    # Batches come from worker processes while the device works on the previous one.
    with closing(_batches(run, steps)) as batches, closing(journal):
        for _ in steps:
            batch = interval.next(batches)
            due = _Due.at(run.state.step + 1, recipe.train)
            terms = training_step(run.trainer, run.state, batch, compare=due.log and not is_sharded(recipe))
            run.state.first_unit = batch.first_unit

            line: dict[str, float] = {}
            if due.log:
                line = interval.figures(terms, run.state.optimizers[0].param_groups[0]["lr"])
                _check_finite(line, run.state.step)
                if watch and (warning := watch.look(run.state.step, line)):
                    progress.say(warning)
            if due.evaluate:
                line = line | journal.evaluate()
            if line:
                journal.write(line)
                figures = line
            if due.save:
                save(run)
            if due.evaluate:
                journal.draw_curves()
            progress.advance(note=note(figures))

    # A run that was cut off between its only state and its model has no step left that would write one.
    no_model = distributed.rank() == 0 and not (request.out / MODEL_FILE).exists()
    if sum_over_ranks(int(no_model)):
        save(run)

    return TrainReport(
        rank=distributed.rank(),
        run=request.out,
        checkpoint=request.out / MODEL_FILE,
        steps=run.state.step,
        elapsed_s=time.perf_counter() - started_at,
        figures=figures,
    )


def precision_words(recipe: Recipe) -> str:
    """Return in a sentence how products are computed on a GPU."""
    train = recipe.train
    of_float32 = {"high": "TF32", "highest": "float32"}[train.float32_products]
    chosen = f"train.float32_matmul_precision: {train.float32_products}"
    if train.precision == "fp32":
        return f"products are computed in {of_float32} ({chosen})"
    return f"products are computed in {train.precision}, and those that stay float32 in {of_float32} ({chosen})"


@dataclass(frozen=True)
class _Due:
    """What a step ends with; the last one ends with everything."""

    log: bool
    evaluate: bool
    save: bool

    @classmethod
    def at(cls, step: int, train: TrainSpec) -> Self:
        """Return what is due at a step, counted from 1; a checkpoint comes with a line of the log."""
        is_last = step == train.steps
        save = is_last or step % train.checkpoint_every == 0
        return cls(
            log=save or step % train.log_every == 0,
            evaluate=is_last or step % train.sample_every == 0,
            save=save,
        )


def _index_images(request: TrainRequest, progress: Progress) -> None:
    """Let the first rank index the images in the run folder while the others wait."""
    check_batch_size(request.recipe, distributed.world_size())
    if distributed.rank() == 0:
        refuse_other_runs(request)
        make_folder(request.out)
        index_sources(request, request.out, progress)
    wait_for_all_ranks()


def _load_sources(request: TrainRequest) -> tuple[Source, Source]:
    """Return the images that latents' statistics are measured on, and those that are reconstructed for validation."""
    validation = None if request.val is None else Source(request.out / "index-val")
    images = validation if is_stream(request.data) else Source(request.out / "index")
    assert images is not None
    return images, validation or images


def _batches(run: Run, steps: range) -> Generator[TrainingBatch, None, None]:
    """Yield this rank's share of the batches, by index or from an endless stream; in pinned memory for a GPU."""
    request, recipe = run.request, run.recipe
    rank, world_size = distributed.rank(), distributed.world_size()
    files = _streamed_files(request, run.images)
    if files is not None:
        stream = TrainingStream(files, recipe, rank, world_size)
        batches = stream_training_batches(stream, request.num_workers, run.state.first_unit or 0)
    else:
        views = TrainingViews(run.images, recipe, rank, world_size)
        batches = load_training_batches(views, steps, request.num_workers)
    with closing(batches):
        for batch in batches:
            yield batch.pin_memory() if run.device.type == "cuda" else batch


def _streamed_files(request: TrainRequest, images: Source) -> StreamedFiles | None:
    """Return the files that stream by; None where rows are read by index."""
    if is_stream(request.data):
        return Tars(request.data, expand_tars(request.data))
    if images.access != "row":
        return RowGroups(images, tuple(images.groups()))
    if request.recipe.data.shuffle_buffer is None:
        return None
    is_chosen = request.fields.image is not None or request.fields.allow_missing is not None
    if images.containers and (is_chosen or not TarShards().recognises(request.data)):
        return RowGroups(images, tuple(images.groups()))  # which images there are in the tars, the index knows
    return Tars(request.data, expand_tars(request.data))


@contextmanager
def _naming_the_micro_batches(request: TrainRequest) -> Iterator[None]:
    """Let running out of device memory name settings that take less, and that a resumed run may change too."""
    try:
        with memory_errors(micro_batch_size(request.recipe, distributed.world_size())):
            yield
    except DeviceMemoryError as error:
        settings = settings_for_less_memory(request.recipe, distributed.world_size())
        if not settings:
            raise
        found, _, _ = str(error).partition(";")
        resume = {"--resume": ""} if (request.out / STATE_FILE).exists() else {}
        raise DeviceMemoryError(
            f"{found}; repeat with {'--resume and ' if resume else ''}--set {' or --set '.join(settings)}",
            options=resume | {"--set": settings[0]},
        ) from error


def _check_finite(figures: dict[str, float], step: int) -> None:
    for name, value in figures.items():
        if not math.isfinite(value):
            raise TcaeError(
                f"{name} is {value} at step {step}; the last checkpoint remains: "
                f"lower optimizer.lr or train in fp32, and start again"
            )
