"""Trains the built-in model anew for a few minutes, and replaces it only if the new one is better.

    python recipes/builtin.py PHOTOS OUT [--minutes 7] [--cpu] [--small] [--set KEY=VALUE]

PHOTOS is a folder with photographs in train/, and others in val/, on which both models are compared. A short trial says
how many steps of recipes/tiny.yaml fit into the time. The same command resumes a run that was interrupted. The new
model is OUT/tcae-tiny/model.safetensors, whether it is better or not.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import click

from tcae_cli.autoencoders.checkpoint import MODEL_FILE
from tcae_cli.autoencoders.tcae import BUILTIN, read_header
from tcae_cli.errors import TcaeError
from tcae_cli.jobs.evaluate import evaluate
from tcae_cli.jobs.train import train
from tcae_cli.recipe.choices import DEFAULT_MODEL
from tcae_cli.recipe.load import load_recipe
from tcae_cli.recipe.schema import Recipe
from tcae_cli.reports.evaluation import EvalRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.train import TrainRequest
from tcae_cli.runtime.files import write_atomic
from tcae_cli.terminal.progress import ConsoleProgress
from tcae_cli.training.state import STATE_FILE

RECIPE = Path(__file__).parent / "tiny.yaml"
ON_A_GPU = ("train.batch_size=64",)  # a step takes hardly longer there than one of 16
TRIAL_STEPS = 60
EVALUATION_S = 40.0  # kept for checkpoints and the comparison
FIGURES = ("psnr", "ssim")
TOY = (
    "model.image_size=64",
    "model.patch_size=8",
    "model.downsampling=16",
    "model.latent_channels=8",
    "model.width=32",
    "model.depths=[1, 1]",
    "model.num_heads=2",
    "data.resize_min=64",
    "data.resize_max=96",
    "train.batch_size=4",
    "train.precision=fp32",
)


@click.command()
@click.argument("photos", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--minutes", type=click.FloatRange(min=0), default=7.0, show_default=True, metavar="M")
@click.option("--cpu", is_flag=True, help="Compute on the CPU.")
@click.option("--small", is_flag=True, help="Train a toy for four steps, to try this script.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe; repeatable.")
def main(photos: Path, out: Path, minutes: float, overrides: tuple[str, ...], **options: bool) -> None:
    """Train a model on PHOTOS/train in OUT, compare it with the built-in one on PHOTOS/val, and keep the better."""
    ends_at = time.monotonic() + 60 * minutes - EVALUATION_S
    device = "cpu" if options["cpu"] else None
    settings = [*(TOY if options["small"] else ON_A_GPU), *overrides]
    run = out / DEFAULT_MODEL
    try:
        if (run / "recipe.yaml").exists():
            recipe = load_recipe(run / "recipe.yaml")
        elif options["small"]:
            recipe = load_recipe(RECIPE, [*settings, "train.steps=4"])
        else:
            images_per_s = measure_rate(settings, photos, out / "trial", device)
            steps = max(
                1, int(images_per_s * (ends_at - time.monotonic()) / load_recipe(RECIPE, settings).train.batch_size)
            )
            recipe = load_recipe(RECIPE, [*settings, f"train.steps={steps}"])
        click.echo(f"training {run} for {recipe.train.steps:,} steps of {recipe.train.batch_size}", err=True)
        train_into(run, recipe, photos, device)
        replace_if_better(run, photos, device)
    except TcaeError as error:
        raise click.ClickException(str(error)) from error


def measure_rate(settings: Sequence[str], photos: Path, run: Path, device: str | None) -> float:
    """Return the images a second that training takes after its start, by a short run."""
    length = [f"train.steps={TRIAL_STEPS}", f"train.log_every={TRIAL_STEPS // 3}", f"train.sample_every={TRIAL_STEPS}"]
    return train_into(run, load_recipe(RECIPE, [*settings, *length]), photos, device)["images_per_s"]


def train_into(run: Path, recipe: Recipe, photos: Path, device: str | None) -> dict[str, float]:
    """Train a recipe, or resume its run; return the last figures of the log."""
    request = TrainRequest(
        recipe=recipe,
        data=str(photos / "train"),
        out=run,
        resume=(run / STATE_FILE).exists(),
        device=device,
        num_workers=0 if device == "cpu" else max(1, (os.cpu_count() or 1) - 1),
    )
    with ConsoleProgress() as progress:
        return train(request, progress).figures


def replace_if_better(run: Path, photos: Path, device: str | None) -> None:
    """Make the run's model the built-in one if both PSNR and SSIM are higher on photographs unseen, and say so."""
    models = (DEFAULT_MODEL, str(run))
    request = EvalRequest(metrics=FIGURES, models=models, data=str(photos / "val"), device=device)
    before, after = (each.values for each in evaluate(request, Silent()).evaluations)
    for name in FIGURES:
        click.echo(f"{name}: {before[name]:.4f} of the built-in model, {after[name]:.4f} of the new one")
    if not all(after[name] > before[name] for name in FIGURES):
        click.echo("the built-in model stays, because the new one is not better in both")
        return
    target = BUILTIN / f"{DEFAULT_MODEL}.safetensors"
    write_atomic(target, (run / MODEL_FILE).read_bytes())
    header = read_header(str(run))
    click.echo(
        f"replaced {target}: {header.step:,} steps, encoder {header.encoder_hash[:12]}; bring its card up to date"
    )


if __name__ == "__main__":
    main()
