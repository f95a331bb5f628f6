"""What `tcae eval` takes and gives back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tcae_cli.errors import UsageError
from tcae_cli.recipe.choices import Precision, Resize
from tcae_cli.reports.report import DONE, TOO_MANY_FAILED, Report, Tolerance

BUILTIN_MODEL = "tcae-tiny"
METRICS = (
    "rfid",
    "fd-dinov2",
    "is",
    "psnr",
    "ssim",
    "lpips-vgg",
    "lpips-alex",
    "effective-rank",
    "channels",
    "ifid",
    "gfid",
    "probe",
    "cost",
)
ALL = "all"
_ALSO_CALLED = {"lpips": "lpips-vgg"}


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """`tcae eval`: models on a source, a store or a folder of reconstructions against it, or generated images."""

    metrics: tuple[str, ...]  # of METRICS; "all" for those that can be computed
    models: tuple[str, ...] = ()  # side by side; with a store, those to decode it with
    data: str | None = None  # the originals; a store's own source, or the sample images
    store: str | None = None
    reconstructions: str | None = None  # images named after the originals
    samples: str | None = None  # generated images; the data are then real ones to compare them with
    probe_data: str | None = None  # labelled images to train the probes on; four fifths of the data
    reference: Path | None = None  # statistics (.npz: mu, sigma) that rFID or gFID is measured against
    weights: dict[str, Path] = field(default_factory=dict)  # of pretrained networks, by name
    report: Path | None = None  # folder for a page of it
    size: int | None = None  # pixels, square; the models'
    resize: Resize | None = None  # adm; a store's own
    precision: Precision = "fp32"
    batch_size: int = 16
    num_workers: int = 1
    device: str | None = None
    max_failures: Tolerance = field(default_factory=lambda: Tolerance(0.01, is_share=True))

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in (*METRICS, *_ALSO_CALLED, ALL):
                raise UsageError(f"--metric {name} is not one of {', '.join((*METRICS, ALL))}")
        if twice := [name for name in self.models if self.models.count(name) > 1]:
            raise UsageError(f"{twice[0]} is named twice; name each model once")
        given = [option for option in ("store", "reconstructions", "samples") if getattr(self, option)]
        if len(given) > 1:
            raise UsageError(f"--{given[0]} and --{given[1]} exclude each other; evaluate one after the other")
        for option in ("reconstructions", "samples"):
            if option in given and self.models:
                raise UsageError(f"--{option} are images already, so {self.models[0]} has nothing to do; leave it away")
            if option in given and self.size is not None:
                raise UsageError(f"--size is that of the {option}; leave it away")
        for option, users in (("reference", {"rfid", "gfid"}), ("probe_data", {"probe"})):
            if getattr(self, option) is not None and users.isdisjoint(self.wanted):
                name = option.replace("_", "-")
                raise UsageError(
                    f"--{name} is for {' and '.join(sorted(users))}; ask for it with --metric, or leave it"
                )
        if self.reconstructions and not self.data:
            raise UsageError("--reconstructions need the originals; name them with --data")
        for option in ("size", "resize"):
            if self.store and getattr(self, option) is not None:
                raise UsageError(f"--{option} is the store's own; leave it away")

    @property
    def wanted(self) -> tuple[str, ...]:
        """The metrics asked for, each once, in the order of METRICS."""
        asked = {_ALSO_CALLED.get(name, name) for name in self.metrics}
        return tuple(name for name in METRICS if name in asked or ALL in asked)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The figures of one model, store or folder."""

    name: str
    values: dict[str, float]  # by name, in the order of the table
    channels: dict[str, list[float]] = field(default_factory=dict)  # of the latents: mean, std, ... of each channel


@dataclass(frozen=True, kw_only=True)
class EvalReport(Report):
    """Figures, and how they were taken."""

    rank: int  # that reports; the first speaks for all
    data: str
    num_images: int
    num_failed: int  # could not be read, or are not what the store was made from
    failures: list[dict[str, str]]  # the first few: path, reason
    too_many_failed: bool
    protocol: dict[str, str]  # what was done, by step or metric
    evaluations: list[Evaluation]
    skipped: dict[str, str]  # metrics that "all" asked for and that could not be computed, and why
    warnings: list[str]
    page: Path | None  # index.html, where one was asked for
    elapsed_s: float

    @property
    def exit_code(self) -> int:
        """3 when more images failed than was allowed."""
        return TOO_MANY_FAILED if self.too_many_failed else DONE

    def as_dict(self) -> dict[str, Any]:
        """Every field; values that are not finite, which JSON has no word for, are None."""
        fields: dict[str, Any] = finite(super().as_dict())
        return fields


def by_reason(skipped: Mapping[str, str]) -> dict[str, str]:
    """Reasons why metrics are skipped, and the names of those metrics."""
    return {reason: ", ".join(n for n, other in skipped.items() if other == reason) for reason in skipped.values()}


def finite(value: Any) -> Any:
    """With None for numbers that JSON has no word for."""
    match value:
        case dict():
            return {name: finite(each) for name, each in value.items()}
        case list():
            return [finite(each) for each in value]
        case float() if not math.isfinite(value):
            return None
    return value


def figure_words(name: str, value: float) -> str:
    """A figure as people read it, with its unit where it has one."""
    if not math.isfinite(value):
        return "undefined" if math.isnan(value) else "infinite" if value > 0 else "minus infinite"
    match name:
        case "psnr":
            return f"{value:.2f} dB"
        case "ssim" | "lpips-vgg" | "lpips-alex":
            return f"{value:.4f}"
        case "dead-channels" | "dominant-channels":
            return f"{value:,.0f}"
    if name.endswith(("-parameters", "-macs")):
        return _scaled(value, 1000, ("", " k", " M", " G", " T"))
    if name.endswith("-bytes"):
        return _scaled(value, 1024, (" bytes", " KiB", " MiB", " GiB", " TiB"))
    if name.endswith("-images-per-s"):
        return f"{value:,.1f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    """In the largest unit that leaves at least 1, with two decimals; in the first as a whole number."""
    power = 0
    while round(value / step**power, 2) >= step and power < len(units) - 1:
        power += 1
    return f"{value / step**power:,.{2 if power else 0}f}{units[power]}"
