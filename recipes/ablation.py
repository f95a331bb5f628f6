"""Runs the paper's 2x2 ablation: trains recipes/ablation-*.yaml with several seeds, measures and compares the models.

    python recipes/ablation.py SMALL OUT [--device D] [--steps N] [--seeds 2] [--set KEY=VALUE]

SMALL is a folder with train-{0000..0005}.tar and val-0000.tar, photographs with classes. The same command resumes after
the runs that are finished. OUT/ablation.json holds the figures of every run.

Axes: n images, h w positions, d width, c latent channels.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import click

from tcae_cli.autoencoders.checkpoint import MODEL_FILE
from tcae_cli.autoencoders.tcae import read_header
from tcae_cli.errors import TcaeError
from tcae_cli.jobs.evaluate import evaluate
from tcae_cli.jobs.train import train
from tcae_cli.recipe.load import load_recipe
from tcae_cli.recipe.schema import Recipe
from tcae_cli.reports.evaluation import EvalRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.train import TrainRequest
from tcae_cli.runtime.files import make_folder, write_atomic
from tcae_cli.terminal.progress import ConsoleProgress
from tcae_cli.training.state import STATE_FILE

Figures = dict[str, float]  # of one model
Runs = dict[str, list[float]]  # of an arm: the values of each figure over seeds
ARMS = ("baseline", "stc", "ssl", "stc-ssl")
A1, A2, LOSS = "probe-tokens", "probe-latents", "structural-loss"
NAMES = ("psnr", "ssim", A1, A2, LOSS, "effective-rank")  # the columns of the table


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


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--device", metavar="D", help="cpu, cuda or cuda:N  [default: a GPU where there is one]")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Steps of each run.  [default: the recipes']")
@click.option(
    "--seeds", type=click.IntRange(min=1), default=2, show_default=True, metavar="N", help="Runs of each arm."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipes; repeatable.")
def main(data: Path, out: Path, device: str | None, steps: int | None, seeds: int, overrides: tuple[str, ...]) -> None:
    """Train the four arms on the tars in DATA into OUT, measure them, and print a table and its findings."""
    sources = (f"{data}/train-{{0000..0005}}.tar", f"{data}/val-0000.tar")
    results = out / "ablation.json"
    try:
        make_folder(out)
        known: dict[str, Figures] = json.loads(results.read_text()) if results.exists() else {}
        for seed in range(seeds):
            for arm in ARMS:
                recipe = recipe_of(arm, seed, steps, overrides)
                run = out / f"{arm}-{seed}"
                if not is_finished(run, recipe):
                    click.echo(f"training {run}", err=True)
                    train_arm(recipe, sources, run, device)
                    known.pop(run.name, None)  # figures of an earlier run of the same name
                    write_atomic(results, json.dumps(known, indent=2).encode())
                known[run.name] = known.get(run.name) or measure(str(run), sources, device)
                write_atomic(results, json.dumps(known, indent=2).encode())
    except TcaeError as error:
        raise click.ClickException(str(error)) from error
    runs = {arm: [known[f"{arm}-{seed}"] for seed in range(seeds)] for arm in ARMS}
    arms = {arm: {name: [run[name] for run in found] for name in found[0]} for arm, found in runs.items()}
    click.echo("\n".join([*table(arms), "", *(f"- {d.claim}: {verdict(d, arms)}" for d in DIRECTIONS)]))
    click.echo("- STC lowers rFID without SSL; SSL lowers gFID; both together do most: not shown, neither is measured")


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


def train_arm(recipe: Recipe, sources: tuple[str, str], run: Path, device: str | None) -> None:
    """Train an arm, or resume its run."""
    resume = (run / STATE_FILE).exists()
    num_workers = max(1, (os.cpu_count() or 1) - 1)
    request = TrainRequest(
        recipe=recipe, data=sources[0], val=sources[1], out=run, resume=resume, device=device, num_workers=num_workers
    )
    with ConsoleProgress() as progress:
        train(request, progress)


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
    """Return lines of Markdown: each arm's mean over seeds, and in brackets the largest value minus the smallest."""
    lines = [f"| arm | {' | '.join(name.replace('-', ' ') for name in NAMES)} |", "|---" * (len(NAMES) + 1) + "|"]
    for arm, runs in arms.items():
        cells = (f"{mean(runs[name]):.3f} ({_spread(runs[name]):.3f})" for name in NAMES)
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
