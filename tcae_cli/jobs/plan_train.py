"""`tcae train --dry-run`: what a run would do and take, without writing anything."""

import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tcae_cli.autoencoders.tcae import parent_of, read_header
from tcae_cli.errors import TcaeError
from tcae_cli.features.published import FILES
from tcae_cli.features.weights import find_cached
from tcae_cli.jobs.train_sources import (
    check_batch_size,
    index_sources,
    micro_batch_size,
    refuse_other_runs,
    settings_for_less_memory,
)
from tcae_cli.recipe.schema import Recipe
from tcae_cli.reports.progress import Progress
from tcae_cli.reports.report import Span
from tcae_cli.reports.train import TrainRequest
from tcae_cli.reports.train_plan import TrainPlan, TrainPlanRequest
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import choose_device, device_words, float32_products
from tcae_cli.runtime.files import free_bytes, tree_bytes
from tcae_cli.runtime.memory import total_bytes
from tcae_cli.sources.source import Source
from tcae_cli.training.footprint import footprint
from tcae_cli.training.pace import measure_pace
from tcae_cli.training.run import identity_of, source_identity
from tcae_cli.training.state import saved_step
from tcae_cli.training.views.batches import TrainingViews

_SAMPLES_READ = 8  # at a time
_READ_S = 2.0
_OTHER_FILES = 3  # beside the checkpoint's two and the pictures: recipe, log, curves


def plan_training(plan: TrainPlanRequest, progress: Progress) -> TrainPlan:
    """Estimate a run from the recipe, the index of its images, and a few steps on this device; write nothing.

    One rank is measured, whatever the number of ranks. Raises a TcaeError as `train` does for wrong use, and for images
    that the command line names; what else is missing is named in the report.
    """
    request, recipe = plan.train, plan.train.recipe
    device = choose_device(request.device)
    check_batch_size(recipe, plan.num_ranks)
    refuse_other_runs(request)

    micro_batch = micro_batch_size(recipe, plan.num_ranks)
    with TemporaryDirectory() as scratch, ThreadPoolExecutor(1) as aside:
        # The network may take its time to say that it is not there.
        finding = aside.submit(_find_images, plan, Path(scratch), progress)
        work = footprint(recipe, device, micro_batch, num_ranks=plan.num_ranks, freeze_encoder=request.freeze_encoder)
        source, missing = finding.result()
        index_bytes = tree_bytes(Path(scratch))
        reading = None if source is None else _images_read_per_s(source, request, plan.num_ranks)
        first = _steps_done(request, source) if request.resume else 0
    num_images = None if source is None else len(source)
    with float32_products(device, recipe.train.float32_products):
        pace = measure_pace(recipe, work, device, micro_batch, freeze_encoder=request.freeze_encoder)
    left = recipe.train.steps - first
    seconds = _seconds(work.run_flops(recipe, first) / plan.num_ranks, pace.flops_per_s, left, recipe, reading)

    checkpoint = work.model_bytes + work.state_bytes
    result = TrainPlan(
        rank=distributed.rank(),
        run=request.out,
        device=device_words(device),
        num_ranks=plan.num_ranks,
        micro_batch=micro_batch,
        accumulate=recipe.train.accumulate,
        batch_size=recipe.train.batch_size,
        steps=recipe.train.steps,
        first_step=first,
        data=request.data,
        num_images=num_images,
        epochs=recipe.train.steps * recipe.train.batch_size / num_images if num_images else None,
        parameters=work.parameters,
        trained_parameters=work.trained,
        encode_macs=work.encode_flops / 2,
        decode_macs=work.decode_flops / 2,
        step_macs=work.flops / 2,
        game_macs=work.game_flops / 2,
        memory_bytes=work.peak_bytes,
        device_bytes=total_bytes(device),
        pace_basis=pace.basis,
        seconds_per_step=Span(*(each / max(1, left) for each in (seconds.lowest, seconds.median, seconds.highest))),
        seconds=seconds,
        read_images_per_s=reading,
        checkpoint_bytes=checkpoint,
        disk_bytes=checkpoint + max(work.model_bytes, work.state_bytes) + index_bytes,  # one is replaced at a time
        free_bytes=free_bytes(request.out),
        num_files=2 + _OTHER_FILES + math.ceil(left / recipe.train.sample_every),
        missing=[*missing, *_missing_weights(request)],
    )
    return replace(result, missing=[*result.missing, *_too_small(result, recipe)])


def _find_images(plan: TrainPlanRequest, scratch: Path, progress: Progress) -> tuple[Source | None, list[str]]:
    """Return the images to train on, if they can be had, and otherwise why not, in a sentence."""
    request = plan.train
    if not request.data:
        return None, [plan.no_data]
    try:
        return index_sources(request, scratch, progress), []
    except TcaeError as error:
        if not request.data_advice:  # named on the command line
            raise
        return None, [str(error)]


def _steps_done(request: TrainRequest, source: Source | None) -> int:
    """Return the steps of the run to resume. Raises CheckpointError if it was begun otherwise."""
    parent = None if request.parent is None else parent_of(read_header(request.parent))
    identity = identity_of(request, parent)
    if source is not None:
        identity["source"] = source_identity(request, source)
    return saved_step(request.out, identity)


def _images_read_per_s(source: Source, request: TrainRequest, num_ranks: int) -> float | None:
    """Return how many images a second are read and turned into views by as many processes as this machine can run.

    One process is measured. None where a source is not read by row.
    """
    if source.access != "row":
        return None
    recipe = request.recipe
    train = recipe.train.model_copy(update={"batch_size": min(_SAMPLES_READ, len(source)), "accumulate": 1})
    views = TrainingViews(source, recipe.model_copy(update={"train": train}))
    num_read = 0
    started = time.perf_counter()
    for step in range(3):
        num_read += len(views[step].samples)
        if (elapsed_s := time.perf_counter() - started) > _READ_S:
            break
    num_processes = min(len(os.sched_getaffinity(0)), max(1, request.num_workers) * num_ranks)
    return num_processes * num_read / elapsed_s


def _seconds(flops: float, pace: Span, steps: int, recipe: Recipe, reading: float | None) -> Span:
    """Return the time of so many steps: as long as computing them takes, or reading, whichever is longer."""
    reading_s = steps * recipe.train.batch_size / reading if reading else 0.0
    return Span(*(max(flops / speed, reading_s) for speed in (pace.highest, pace.median, pace.lowest)))


def _missing_weights(request: TrainRequest) -> list[str]:
    loss = request.recipe.loss
    wanted = [loss.perceptual and loss.perceptual.network, loss.adversarial and loss.adversarial.discriminator]
    return [
        f"the weights of {name} are not in a cache; the run will fetch them, or tcae weights --fetch {name} does now"
        for name in dict.fromkeys(wanted)
        if name in FILES and name not in request.weights and find_cached(FILES[name]) is None
    ]


def _too_small(plan: TrainPlan, recipe: Recipe) -> list[str]:
    found = []
    if plan.memory_bytes > plan.device_bytes:
        ways = [f"--set {setting}" for setting in settings_for_less_memory(recipe, plan.num_ranks)]
        ways += ["more GPUs"] if plan.micro_batch > 1 else []
        advice = " or ".join(ways) or "a device with more memory, or a smaller model"
        found.append(f"the memory of the device is too small; use {advice}")
    if plan.disk_bytes > plan.free_bytes:
        found.append(f"the disk of {plan.run} is too small; free some space, or give another --out")
    return found
