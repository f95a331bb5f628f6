"""`tcae train`: a recipe and a source of images in, a run folder with a model out."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tcae_cli.checkpoint import MODEL_FILE, LatentStatistics, save_checkpoint
from tcae_cli.data.crops import TrainingBatch, TrainingViews, load_training_batches
from tcae_cli.data.image_file import draw_grid, encode_image
from tcae_cli.data.loader import load_rows
from tcae_cli.data.source import Source, open_source
from tcae_cli.data.transform import to_float, to_uint8
from tcae_cli.errors import TcaeError, UsageError
from tcae_cli.features.backbone import load_feature_network
from tcae_cli.losses.perceptual import PerceptualDistance
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.load import dump_recipe
from tcae_cli.recipe.schema import Recipe
from tcae_cli.report import Progress, TrainReport, TrainRequest
from tcae_cli.runtime.device import autocast, choose_device, naming_the_batch_size
from tcae_cli.runtime.files import make_folder, write_atomic
from tcae_cli.tracking import MetricsLog
from tcae_cli.training.ema import averaged_copy
from tcae_cli.training.optim import build_optimizers
from tcae_cli.training.shortcut import fit_block_pca, start_from_pca
from tcae_cli.training.state import restore_state, save_state
from tcae_cli.training.step import TrainingState, training_step

_NUM_SAMPLES = 8  # images in each picture of reconstructions
_MEASURED_IMAGES = 2048  # at most, for the PCA and for the latents' statistics


@dataclass(frozen=True)
class _Run:
    """A training run under way."""

    request: TrainRequest
    source: Source
    device: torch.device
    state: TrainingState

    @property
    def recipe(self) -> Recipe:
        return self.request.recipe


def train(request: TrainRequest, progress: Progress) -> TrainReport:
    """Train the recipe's model on the source; resumable to the bit on the CPU from its last checkpoint.

    Raises a TcaeError for a source, recipe, run folder or weights that cannot work.
    """
    recipe, run_folder = request.recipe, request.out
    _prepare_folder(run_folder, request.resume)
    run = _start(request, open_source(request.data, run_folder / "index"), progress)
    perceptual = _perceptual_distance(request, run.device)
    write_atomic(run_folder / "recipe.yaml", dump_recipe(recipe).encode())
    log = MetricsLog(run_folder, run.state.step)

    # Batches come from worker processes while the device works on the one before.
    views = TrainingViews(run.source, recipe.data, recipe.model.image_size, recipe.train.batch_size, recipe.train.seed)
    steps = range(run.state.step, recipe.train.steps)
    batches = load_training_batches(views, steps, request.num_workers)
    progress.start("train", recipe.train.steps, done=run.state.step, unit="steps")
    started = time.perf_counter()
    interval = _Interval()
    figures: dict[str, float] = {}

    for _ in steps:
        batch = interval.next(batches)
        with naming_the_batch_size(recipe.train.batch_size, "--set train.batch_size="):
            terms = training_step(run.state, to_float(batch.images.to(run.device)), recipe, perceptual)
        step = run.state.step
        if step % recipe.train.log_every == 0 or step == recipe.train.steps:
            figures = interval.figures(terms, run.state.optimizers[0].param_groups[0]["lr"])
            if figures["loss"] != figures["loss"]:
                raise TcaeError(
                    f"the loss is not a number at step {step}; the last checkpoint stands, lower optimizer.lr"
                )
            log.write(step, figures)
        progress.advance(note=f"loss {figures.get('loss', float('nan')):.4f}")
        if step % recipe.train.sample_every == 0 or step == recipe.train.steps:
            _draw_reconstructions(run)
        if step % recipe.train.checkpoint_every == 0 or step == recipe.train.steps:
            _save(run)

    return TrainReport(
        run=run_folder,
        checkpoint=run_folder / MODEL_FILE,
        steps=run.state.step,
        elapsed_s=time.perf_counter() - started,
        figures=figures,
    )


class _Interval:
    """Counts what happened since the last line of the log."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._since, self._waited_s, self._images, self._failed = time.perf_counter(), 0.0, 0, 0

    def next(self, batches: Iterator[TrainingBatch]) -> TrainingBatch:
        """The next batch; the time spent waiting for it is counted."""
        asked = time.perf_counter()
        batch = next(batches)
        self._waited_s += time.perf_counter() - asked
        self._images += len(batch.images)
        self._failed += batch.num_failed
        return batch

    def figures(self, terms: dict[str, Tensor], rate: float) -> dict[str, float]:
        """The log's line, and a fresh start."""
        elapsed_s = time.perf_counter() - self._since
        line = {name: float(value) for name, value in terms.items()} | {
            "lr": rate,
            "images_per_s": self._images / elapsed_s,
            "loader_wait_share": self._waited_s / elapsed_s,
            "num_failed": self._failed,
        }
        self._reset()
        return line


def _prepare_folder(run: Path, resume: bool) -> None:
    if run.exists() and not run.is_dir():
        raise UsageError(f"{run} is a file; give --out a folder")
    if not resume and run.exists() and any(run.iterdir()):
        raise UsageError(f"{run} exists; continue it with --resume, or give another --out")
    make_folder(run)


def _start(request: TrainRequest, source: Source, progress: Progress) -> _Run:
    recipe, device = request.recipe, choose_device(request.device)
    torch.manual_seed(recipe.train.seed)
    model = TCAE(recipe.model)
    if recipe.model.pixel_shortcut and not request.resume:
        progress.say("fitting the PCA that the pixel shortcut starts from")
        blocks = (to_float(images) for images in _centre_crops(source, recipe))
        start_from_pca(model, fit_block_pca(blocks, recipe.model.downsampling, recipe.model.latent_channels))
    model.to(device)
    state = TrainingState(model, averaged_copy(model), build_optimizers(model, recipe.optimizer))
    run = _Run(request, source, device, state)
    if request.resume:
        restore_state(request.out, state, recipe.model_dump(mode="json"))
        progress.say(f"resuming {request.out} after step {state.step}")
    return run


def _perceptual_distance(request: TrainRequest, device: torch.device) -> PerceptualDistance | None:
    spec = request.recipe.loss.perceptual
    if spec is None:
        return None
    return PerceptualDistance(load_feature_network(spec.network, request.weights.get(spec.network))).to(device)


def _centre_crops(source: Source, recipe: Recipe) -> Iterator[Tensor]:
    """Batches [32, 3, h, w], uint8, of up to _MEASURED_IMAGES images spread evenly over the source."""
    rows = range(0, len(source), -(-len(source) // _MEASURED_IMAGES))
    batches = [rows[start : start + 32] for start in range(0, len(rows), 32)]
    for batch in batches:
        images, _, failures = load_rows(source, batch, recipe.model.image_size, "torch")
        yield images[[slot for slot, row in enumerate(batch) if row not in failures]]


@torch.no_grad()
def _save(run: _Run) -> None:
    """Write the shippable model, then the state that training resumes from; each is whole at any instant."""
    dtype = getattr(torch, run.recipe.train.weights_dtype)
    tensors = {name: value.to(dtype) for name, value in run.state.average.state_dict().items()}
    recipe = run.recipe.model_dump(mode="json")
    save_checkpoint(
        run.request.out / MODEL_FILE,
        tensors,
        spec=run.recipe.model,
        statistics=_measure_latents(run),
        recipe=recipe,
        step=run.state.step,
    )
    save_state(run.request.out, run.state, recipe)


def _measure_latents(run: _Run) -> LatentStatistics:
    count, total, squares = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    num_images = 0
    for images in _centre_crops(run.source, run.recipe):
        with autocast(run.device, run.recipe.train.precision):
            latents = run.state.average.encode(to_float(images.to(run.device)))
        values = latents.double().cpu().transpose(0, 1).flatten(1)
        count, num_images = count + values.shape[1], num_images + len(images)
        total, squares = total + values.sum(dim=1), squares + values.square().sum(dim=1)
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    return LatentStatistics(mean=mean.tolist(), std=std.tolist(), num_images=num_images)


@torch.no_grad()
def _draw_reconstructions(run: _Run) -> None:
    """RUN/reconstructions/step-N.png: originals above what the averaged model makes of them."""
    spread = range(0, len(run.source), -(-len(run.source) // _NUM_SAMPLES))
    size = run.recipe.model.image_size
    images, _, _ = load_rows(run.source, spread, size, "torch")
    with autocast(run.device, run.recipe.train.precision):
        decoded = to_uint8(run.state.average(to_float(images.to(run.device))).float()).cpu()
    rows = [[picture.permute(1, 2, 0).numpy() for picture in pictures] for pictures in (images, decoded)]
    folder = run.request.out / "reconstructions"
    folder.mkdir(exist_ok=True)
    write_atomic(folder / f"step-{run.state.step:07d}.png", encode_image(draw_grid(rows), "png"))
