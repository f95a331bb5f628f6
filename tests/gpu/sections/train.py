"""The full objective of recipes/imagenet256.yaml: speed, memory, the adversarial game, and resuming."""

import json
import math
import statistics
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tcae_cli.jobs.train import train
from tcae_cli.recipe.schema import Recipe
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.train import TrainRequest
from tests.gpu.findings import Findings, Setting
from tests.gpu.inputs import images, random_weights, recipe

_EXPECTED = {  # images/s and MFU, on an H100
    "eager": ("about 80 on an H100", "about 20 %"),
    "compiled": ("about 145 on an H100", "about 36 %"),
}


class InterruptedRun(Exception):
    """Raised to end a run in the middle."""


class InterruptAfter(Silent):
    """A Progress that ends a run after so many steps."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def advance(self, count: int = 1, failed: int = 0, note: str = "") -> None:
        self._left -= count
        if self._left <= 0:
            raise InterruptedRun


def run(setting: Setting, findings: Findings, *, compiled: bool = False) -> None:
    """Train for 60 steps, at toy size for 4; the game begins halfway.

    The eager run is interrupted after that, and resumed from its checkpoint.
    """
    way = "compiled" if compiled else "eager"
    half = setting.choose(30, 2)
    interval = setting.choose(10, 1)  # of the log, in steps; each line costs a second pass, for gradient_cosine
    steps = 2 * half
    chosen = full_objective(
        setting,
        f"train.steps={steps}",
        f"train.compile={str(compiled).lower()}",
        "loss.adversarial.discriminator_start=0.5",
        "loss.adversarial.generator_start=0.6",
        f"train.checkpoint_every={steps if compiled else half}",
        f"train.sample_every={steps}",
        f"train.log_every={interval}",
    )
    out = setting.folder / f"train-{way}"
    if not compiled:
        with suppress(InterruptedRun):
            train(request_of(setting, chosen, out), InterruptAfter(half + 1))
    report = train(request_of(setting, chosen, out, resume=not compiled), Silent())
    note_peak(setting, findings, "peak of GPU memory, GiB", "about 62 for 32 images of B")

    lines = log_of(out)
    before = [line for line in lines if half // 2 < line["step"] <= half]
    during = [line for line in lines if line["step"] > half + interval]
    expected, expected_mfu = _EXPECTED[way]
    findings.note("before the game, images/s", _median(before, "images_per_s"), expected)
    if all("mfu" in line for line in before):
        findings.note("before the game, MFU in %", 100 * _median(before, "mfu"), expected_mfu)
    findings.note("during the game, images/s", _median(during, "images_per_s"))
    findings.note("share of the time spent waiting for images", _median(before, "loader_wait_share"), "near 0")
    findings.check("steps at the end", report.steps, f"{steps}", report.steps == steps)
    is_finite = all(math.isfinite(line["loss"]) for line in lines)
    findings.check("losses", "finite" if is_finite else "not finite", "finite", is_finite)
    plays = {"perceptual", "masked_patch", "generator", "discriminator"} <= lines[-1].keys()
    findings.check("terms at the end", ", ".join(sorted(lines[-1])), "those of the game too", plays)
    findings.note("loss at the end", lines[-1]["loss"])
    if compiled:
        _compare(setting, findings, lines)


def _compare(setting: Setting, findings: Findings, lines: list[dict[str, Any]]) -> None:
    """Compare the first logged loss with that of the eager run, which saw the same images, and count graphs."""
    counters = torch._dynamo.utils.counters
    findings.check("graphs", counters["stats"]["unique_graphs"], "some", counters["stats"]["unique_graphs"] > 0)
    breaks = sum(counters["graph_break"].values())
    findings.check("graph breaks", breaks, "0", breaks == 0)
    eager = log_of(setting.folder / "train-eager")
    if eager:
        difference = abs(lines[0]["loss"] / eager[0]["loss"] - 1)
        findings.check("first loss, relative to eager", difference, "within 0.02", difference <= 0.02)


def full_objective(setting: Setting, *overrides: str) -> Recipe:
    """Return imagenet256 with one micro-batch of a GPU: 32 images, or 2 at toy size."""
    small = [] if not setting.small else ["loss.adversarial.discriminator=dino-s16"]
    sizes = [f"train.batch_size={setting.choose(32, 2)}", "train.accumulate=1", "train.precision=bf16"]
    return recipe(setting, "imagenet256", *sizes, *small, *overrides)


def request_of(setting: Setting, chosen: Recipe, out: Path, *, resume: bool = False) -> TrainRequest:
    """Return the request to train on the images of one class, with losses' networks of random weights."""
    names = []
    if chosen.loss.perceptual:
        names.append(chosen.loss.perceptual.network)
    if chosen.loss.adversarial and chosen.loss.adversarial.discriminator != "patchgan":
        names.append(chosen.loss.adversarial.discriminator)
    return TrainRequest(
        recipe=chosen,
        data=str(images(setting) / "0"),
        out=out,
        resume=resume,
        weights={name: random_weights(setting, name) for name in names},
        device=setting.device,
        num_workers=setting.choose(12, 0),
    )


def log_of(out: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log, none where there is no run."""
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def note_peak(setting: Setting, findings: Findings, name: str, expected: str = "") -> None:
    """Note the most memory that tensors took at once, if this is a GPU."""
    if setting.device == "cuda":
        findings.note(name, torch.cuda.max_memory_allocated() / 2**30, expected)


def _median(lines: list[dict[str, Any]], name: str) -> float:
    return statistics.median(line[name] for line in lines)
