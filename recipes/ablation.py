"""Runs the paper's 2x2 ablation: trains recipes/ablation-*.yaml with several seeds, measures and compares the models.

    python recipes/ablation.py SMALL OUT [--device D] [--steps N] [--seeds 2] [--set KEY=VALUE]
    python recipes/ablation.py SMALL OUT --on-device --minutes 8 [--cpu] [--small]

SMALL is a folder with train-{0000..0005}.tar and val-0000.tar, photographs with classes. The same command resumes after
the runs that are finished. With --on-device it also resumes in the middle of one, and OUT/ablation.json, which holds
the figures of every run, is all that has to be kept of finished runs. The table has what is known so far; once all runs
are finished, the findings are judged by `verdict`.

Axes: n images, h w positions, d width, c latent channels.
"""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import click
from ablation_views import ViewsOnDevice, load_images

from tcae_cli.autoencoders.checkpoint import MODEL_FILE
from tcae_cli.autoencoders.tcae import read_header
from tcae_cli.errors import TcaeError
from tcae_cli.jobs.evaluate import evaluate
from tcae_cli.jobs.train import train
from tcae_cli.recipe.load import load_recipe
from tcae_cli.recipe.schema import Recipe
from tcae_cli.reports.evaluation import EvalRequest
from tcae_cli.reports.progress import Progress, Silent
from tcae_cli.reports.train import TrainRequest
from tcae_cli.runtime.checksums import crc32c_of_json
from tcae_cli.runtime.device import choose_device, float32_products
from tcae_cli.runtime.files import make_folder, write_atomic
from tcae_cli.sources.scan import open_source
from tcae_cli.terminal.progress import ConsoleProgress
from tcae_cli.training.run import save, start
from tcae_cli.training.state import STATE_FILE
from tcae_cli.training.step import training_step

Figures = dict[str, float]  # of one model
Runs = dict[str, list[float]]  # of an arm: the values of each figure over seeds
ARMS = ("baseline", "stc", "ssl", "stc-ssl")
A1, A2, LOSS = "probe-tokens", "probe-latents", "structural-loss"
NAMES = ("psnr", "ssim", A1, A2, LOSS, "effective-rank")  # the columns of the table
TOY = (  # recipes that train in seconds on a CPU
    "model.patch_size=8",
    "model.downsampling=32",
    "model.width=32",
    "model.depths=[1, 1]",
    "model.num_heads=2",
    "train.steps=2",
    "train.batch_size=4",
    "train.precision=fp32",
    "loss.self_distillation.global_size=32",
    "loss.self_distillation.local_size=16",
    "loss.self_distillation.num_local_crops=1",
    "loss.self_distillation.num_prototypes=16",
    "loss.self_distillation.head_width=16",
)
SAVE_EVERY = 100  # steps, of runs on the device, which may stop after each checkpoint
LEAST_S = 60.0  # with less time left than this, nothing more is begun


class Direction(NamedTuple):
    """A finding of the paper: how a figure of one arm compares with that of another."""

    claim: str
    figure: str
    arm: str
    beside: str
    sign: int  # +1: the arm's figure is higher


DIRECTIONS = (
    Direction("SSL raises A2, without STC", A2, "ssl", "baseline", +1),
    Direction("SSL raises A2, with STC", A2, "stc-ssl", "stc", +1),
    Direction("STC lowers A1, with SSL", A1, "stc-ssl", "ssl", -1),
    Direction("STC raises A2, with SSL", A2, "stc-ssl", "ssl", +1),
    Direction("STC lowers the structural loss, with SSL", LOSS, "stc-ssl", "ssl", -1),
)


@dataclass(frozen=True)
class Plan:
    """How the runs of a command are trained."""

    sources: tuple[str, str]  # images to train on, and to measure with
    out: Path
    device: str | None
    on_device: bool  # images are kept on the device, and views drawn there
    ends_at: float  # of time.monotonic

    def time_left_s(self) -> float:
        """Return the seconds until the command is to end."""
        return self.ends_at - time.monotonic()


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--device", metavar="D", help="cpu, cuda or cuda:N  [default: a GPU where there is one]")
@click.option("--cpu", is_flag=True, help="The same as --device cpu.")
@click.option("--on-device", is_flag=True, help="Keep the images on the device, and draw their views there.")
@click.option("--minutes", type=click.FloatRange(min=0), metavar="M", help="Stop after M minutes; repeat to resume.")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Steps of each run.  [default: the recipes']")
@click.option(
    "--seeds", type=click.IntRange(min=1), default=2, show_default=True, metavar="N", help="Runs of each arm."
)
@click.option("--small", is_flag=True, help="Train toys, to try this script.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipes; repeatable.")
def main(data: Path, out: Path, seeds: int, overrides: tuple[str, ...], **options: Any) -> None:
    """Train the four arms on the tars in DATA into OUT, measure them, and print a table and its findings."""
    plan = Plan(
        sources=(f"{data}/train-{{0000..0005}}.tar", f"{data}/val-0000.tar"),
        out=out,
        device="cpu" if options["cpu"] else options["device"],
        on_device=options["on_device"],
        ends_at=time.monotonic() + 60 * (math.inf if options["minutes"] is None else options["minutes"]),
    )
    names = [(arm, seed) for seed in range(seeds) for arm in ARMS]
    settings = (*TOY, *overrides) if options["small"] else overrides
    try:
        known = run_all(
            plan, {f"{arm}-{seed}": recipe_of(arm, seed, options["steps"], settings) for arm, seed in names}
        )
    except TcaeError as error:
        raise click.ClickException(str(error)) from error

    runs = {arm: [known[name] for seed in range(seeds) if (name := f"{arm}-{seed}") in known] for arm in ARMS}
    arms = {
        arm: {name: [run[name] for run in found] for name in (*NAMES, "probe-chance")} for arm, found in runs.items()
    }
    click.echo("\n".join(table(arms)))
    if len(known) < len(names):
        click.echo(f"\n{len(known)} of {len(names)} runs are finished; repeat the command to continue")
        return
    click.echo("\n".join(["", *(f"- {d.claim}: {verdict(d, arms)}" for d in DIRECTIONS)]))
    click.echo("- STC lowers rFID without SSL; SSL lowers gFID; both together do most: not shown, neither is measured")


def run_all(plan: Plan, recipes: Mapping[str, Recipe]) -> dict[str, Figures]:
    """Train and measure one run after the other while there is time; return the figures of those that are finished."""
    make_folder(plan.out)
    results = plan.out / "ablation.json"
    known: dict[str, Figures] = json.loads(results.read_text()) if results.exists() else {}
    for name, recipe in recipes.items():
        run = plan.out / name
        identity = crc32c_of_json(recipe.model_dump(mode="json"))
        if plan.on_device and known.get(name, {}).get("recipe") == identity:
            continue  # of a run that another machine may have kept
        if not is_finished(run, recipe):
            if plan.time_left_s() < LEAST_S:
                break
            click.echo(f"training {run}", err=True)
            train_arm(plan, recipe, run)
            known.pop(name, None)  # figures of an earlier run of the same name
            write_atomic(results, json.dumps(known, indent=2).encode())
        if name not in known:
            if not is_finished(run, recipe) or plan.time_left_s() < LEAST_S:
                break
            known[name] = measure(str(run), plan.sources, plan.device) | {"recipe": identity}
            write_atomic(results, json.dumps(known, indent=2).encode())
    return {name: known[name] for name in recipes if name in known}


def recipe_of(arm: str, seed: int, steps: int | None, overrides: Sequence[str]) -> Recipe:
    """Return an arm's recipe; overrides of self-distillation apply to the arms that have it."""
    path = Path(__file__).parent / f"ablation-{arm}.yaml"
    if load_recipe(path).loss.self_distillation is None:
        overrides = [override for override in overrides if not override.startswith("loss.self_distillation.")]
    return load_recipe(path, [*overrides, f"train.seed={seed}", *([f"train.steps={steps}"] if steps else [])])


def is_finished(run: Path, recipe: Recipe) -> bool:
    """Whether the run has saved the model of the recipe's last step."""
    header = read_header(str(run)) if (run / MODEL_FILE).exists() else None
    return header is not None and (header.step, header.recipe) == (recipe.train.steps, recipe.model_dump(mode="json"))


def train_arm(plan: Plan, recipe: Recipe, run: Path) -> None:
    """Train an arm, or resume its run."""
    data, val = plan.sources
    resume = (run / STATE_FILE).exists()
    num_workers = max(1, (os.cpu_count() or 1) - 1)
    request = TrainRequest(
        recipe=recipe, data=data, val=val, out=run, resume=resume, device=plan.device, num_workers=num_workers
    )
    with ConsoleProgress() as progress:
        if plan.on_device:
            with float32_products(choose_device(plan.device), recipe.train.float32_products):
                train_on_device(request, plan, progress)
        else:
            train(request, progress)


def train_on_device(request: TrainRequest, plan: Plan, progress: Progress) -> None:
    """Train as `tcae train` does, on images that the device keeps; stop after the last checkpoint that time allows."""
    recipe, device = request.recipe, choose_device(request.device)
    make_folder(request.out)
    source = open_source(request.data, request.out / "index", progress=progress)
    views = ViewsOnDevice(load_images(source, recipe.model.image_size, device), recipe)
    run = start(request, source, device, progress)
    progress.start("train", recipe.train.steps, done=run.state.step, unit="steps")

    saved_at = time.monotonic()
    while run.state.step < recipe.train.steps:
        terms = training_step(run.trainer, run.state, views[run.state.step])
        progress.advance()
        if run.state.step % SAVE_EVERY == 0 or run.state.step == recipe.train.steps:
            loss = terms["loss"].item()
            if not math.isfinite(loss):
                raise TcaeError(f"the loss of {request.out} is {loss} at step {run.state.step}")
            save(run)
            now = time.monotonic()
            if plan.time_left_s() < now - saved_at:  # which is what the next checkpoint would take
                return
            saved_at = now


def measure(model: str, sources: tuple[str, str], device: str | None) -> Figures:
    """Return the figures of NAMES and the probes' chance, as `tcae eval` measures them.

    Images come from the second source; probes are trained on the first.
    """
    metrics = ("psnr", "ssim", "effective-rank", "probe")
    request = EvalRequest(
        metrics=metrics, models=(model,), data=sources[1], probe_data=sources[0], device=device, num_workers=0
    )
    return evaluate(request, Silent()).evaluations[0].values


def table(arms: Mapping[str, Runs]) -> list[str]:
    """Return lines of Markdown: each arm's mean over seeds, and in brackets the largest value minus the smallest.

    Cells of arms without a finished run are empty.
    """
    lines = [f"| arm | {' | '.join(name.replace('-', ' ') for name in NAMES)} |", "|---" * (len(NAMES) + 1) + "|"]
    for arm, runs in arms.items():
        cells = (f"{mean(runs[name]):.3f} ({_spread(runs[name]):.3f})" if runs[name] else "" for name in NAMES)
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def verdict(direction: Direction, arms: Mapping[str, Runs]) -> str:
    """Return "reproduced" or "refuted", or the reason why neither is shown."""
    beside = arms[direction.beside]
    values = arms[direction.arm][direction.figure]
    others = beside[direction.figure]
    if len(values) < 2:
        return "not shown, one seed has no spread"
    for probe in (A1, A2) if direction.figure == LOSS else (direction.figure,):
        if (found := mean(beside[probe])) <= 2 * (chance := beside["probe-chance"][0]):
            return f"not shown, {probe} of {direction.beside} is {found:.3f}, chance {chance:.3f}"
    difference = mean(values) - mean(others)
    noise = max(_spread(values), _spread(others))
    if abs(difference) <= noise:
        return f"not shown, a difference of {difference:+.3f} at a spread of {noise:.3f}"
    return f"{'reproduced' if difference * direction.sign > 0 else 'refuted'} ({difference:+.3f}, spread {noise:.3f})"


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


if __name__ == "__main__":
    main()
