"""Draws the log of a run as curves.png."""

import math
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from tcae_cli.losses.registry import TERMS
from tcae_cli.runtime.files import write_atomic
from tcae_cli.tracking.log import CURVES_FILE, METRICS_FILE, whole_lines

Curve = np.ndarray  # [k, 2] float64: steps and finite values

_POINTS = 300  # of a curve that are drawn; a longer curve is drawn as means
_MARKED = 30  # points at most, for each to get a dot
_TICKS = (1, 2, 5, 10)  # allowed steps between ticks, times a power of ten
_PANEL_INCHES = (3.3, 2.2)
_DPI = 110
_COLOURS = ("#2a6fbb", "#d9822b", "#3f9a5a", "#8a5fb0")  # of the figures of a panel, in turn
_INK, _PALE = "#444444", "#bbbbbb"


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """A small plot of figures on a common scale."""

    title: str
    names: tuple[str, ...]
    logarithmic: bool = False  # if the values span a decade
    level: float | None = None  # of a dotted line for comparison


def draw_curves(run: Path, num_prototypes: int | None = None) -> Path:
    """Draw RUN/curves.png and return its path: a small panel over steps for each group of figures in RUN/metrics.jsonl.

    num_prototypes: self-distillation's; its logarithm is a dotted line in the panels of loss and entropy.
    Raises DiskError.
    """
    metrics = run / METRICS_FILE
    points: dict[str, list[tuple[int, float]]] = {}
    for _, line in whole_lines(metrics) if metrics.exists() else ():
        step = line.pop("step")
        for name, value in line.items():
            if value is not None:
                points.setdefault(name, []).append((step, value))
    curves = {name: np.array(found, dtype=float) for name, found in points.items()}

    panels = [panel for panel in _panels(num_prototypes) if not curves.keys().isdisjoint(panel.names)]
    encoded = BytesIO()
    _draw(run.resolve().name, panels, curves).savefig(encoded, format="png", dpi=_DPI)
    write_atomic(run / CURVES_FILE, encoded.getvalue())
    return run / CURVES_FILE


def _panels(num_prototypes: int | None) -> list[_Panel]:
    most = math.log(num_prototypes) if num_prototypes else None
    dotted = f" (dotted: ln {num_prototypes:,})" if num_prototypes else ""
    return [
        _Panel(title="loss", names=("loss",), logarithmic=True),
        _Panel(title="reconstruction", names=tuple(TERMS), logarithmic=True),
        _Panel(title=f"self-distillation{dotted}", names=("class_token", "masked_patch"), level=most),
        _Panel(title=f"teacher_entropy{dotted}", names=("teacher_entropy",), level=most),
        _Panel(title="feature_spread", names=("feature_spread",), logarithmic=True),
        _Panel(title="gradient_cosine (below 0: objectives conflict)", names=("gradient_cosine",), level=0.0),
        _Panel(title="adversarial losses", names=("discriminator", "generator")),
        _Panel(title="discriminator_accuracy (dotted: chance)", names=("discriminator_accuracy",), level=0.5),
        _Panel(title="adaptive_weight", names=("adaptive_weight",), logarithmic=True),
        _Panel(title="val_psnr, dB", names=("val_psnr",)),
        _Panel(title="val_ssim", names=("val_ssim",)),
        _Panel(title="val_rfid", names=("val_rfid",), logarithmic=True),
        _Panel(title="grad_norm", names=("grad_norm",), logarithmic=True),
        _Panel(title="lr", names=("lr",)),
        _Panel(title="images_per_s", names=("images_per_s",)),
        _Panel(title="loader_wait_share, mfu", names=("loader_wait_share", "mfu")),
    ]


def _draw(title: str, panels: list[_Panel], curves: dict[str, Curve]) -> Figure:
    columns = max(1, math.ceil(math.sqrt(len(panels))))
    rows = max(1, math.ceil(len(panels) / columns))
    width, height = columns * _PANEL_INCHES[0], rows * _PANEL_INCHES[1] + 0.3
    picture = Figure(figsize=(width, height), facecolor="white")
    picture.subplots_adjust(0.6 / width, 0.3 / height, 1 - 0.2 / width, 1 - 0.6 / height, wspace=0.25, hspace=0.36)
    heading = title if panels else f"{title}: nothing logged yet"
    picture.suptitle(heading, x=0.6 / width, y=1 - 0.08 / height, ha="left", va="top", fontsize=11, color=_INK)
    last_step = max((curve[-1, 0] for curve in curves.values()), default=1)
    for place, panel in enumerate(panels):
        axes = picture.add_subplot(rows, columns, place + 1)
        _draw_panel(axes, panel, {name: curves[name] for name in panel.names if name in curves})
        axes.set_xlim(0, 1.02 * last_step)
    return picture


def _draw_panel(axes: Axes, panel: _Panel, curves: dict[str, Curve]) -> None:
    axes.set_title(panel.title, fontsize=9, loc="left", color=_INK)
    axes.grid(color=_PALE, linewidth=0.4)
    axes.tick_params(which="both", labelsize=7, labelcolor=_INK, color=_PALE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_PALE)
    for name, colour in zip(panel.names, cycle(_COLOURS), strict=False):
        if name in curves:
            _draw_curve(axes, name, curves[name], colour)
    if panel.level is not None:
        axes.axhline(panel.level, color=_INK, linestyle=":", linewidth=1)
    if len(panel.names) > 1:
        axes.legend(fontsize=7, frameon=False, labelcolor=_INK)

    values = np.concatenate([curve[:, 1] for curve in curves.values()])
    if panel.logarithmic and 0 < 10 * values.min() < values.max():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=_TICKS))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=_TICKS, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _draw_curve(axes: Axes, name: str, curve: Curve, colour: str) -> None:
    """Draw a line; for a long run, the mean of neighbouring points over a band of their range."""
    groups = np.array_split(curve, min(len(curve), _POINTS))
    steps, means = np.array([group.mean(axis=0) for group in groups]).T
    if len(curve) > _POINTS:
        lowest = [group[:, 1].min() for group in groups]
        highest = [group[:, 1].max() for group in groups]
        axes.fill_between(steps, lowest, highest, color=colour, alpha=0.2, linewidth=0)
    marker = "o" if len(curve) <= _MARKED else None
    axes.plot(steps, means, color=colour, linewidth=1.3, marker=marker, markersize=2.5, label=name)
