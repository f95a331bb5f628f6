"""All metrics by name, in the order of help and tables: each is a class in a file of this room, and one line here.

Importing this module imports no metric and no torch, so that help stays fast.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tcae_cli.errors import UsageError
from tcae_cli.evaluation.metrics.figure import Figure
from tcae_cli.runtime.registry import Registry

if TYPE_CHECKING:
    from tcae_cli.evaluation.metrics.metric import Metric

_ROOM = "tcae_cli.evaluation.metrics"

METRICS: Registry[type["Metric"]] = Registry(
    {
        "rfid": f"{_ROOM}.rfid:RFid",
        "fd-dinov2": f"{_ROOM}.fd_dinov2:FdDinov2",
        "is": f"{_ROOM}.inception_score:InceptionScore",
        "psnr": f"{_ROOM}.psnr:Psnr",
        "ssim": f"{_ROOM}.ssim:Ssim",
        "lpips-vgg": f"{_ROOM}.lpips:LpipsVgg",
        "lpips-alex": f"{_ROOM}.lpips:LpipsAlex",
        "effective-rank": f"{_ROOM}.effective_rank:EffectiveRank",
        "channels": f"{_ROOM}.channels:Channels",
        "ifid": f"{_ROOM}.ifid:IFid",
        "gfid": f"{_ROOM}.gfid:GFid",
        "probe": f"{_ROOM}.probe:Probe",
        "cost": f"{_ROOM}.cost:Cost",
    }
)
ALL = "all"  # every metric that can be computed
_ALSO_CALLED = {"lpips": "lpips-vgg"}


def chosen_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Return the metrics that were asked for by these names, each once, in the order of METRICS.

    Raises UsageError for a name that is neither a metric, nor another name of one, nor ALL.
    """
    for name in names:
        if name not in (*METRICS, *_ALSO_CALLED, ALL):
            raise UsageError(f"--metric {name} is not one of {', '.join((*METRICS, ALL))}")
    asked = {_ALSO_CALLED.get(name, name) for name in names}
    return tuple(name for name in METRICS if name in asked or ALL in asked)


def figure_of(name: str) -> Figure:
    """Return what is known of a figure, such as "probe-latents"; a name that no metric here has is written plainly."""
    figures = (figure for metric in METRICS.values() for figure in metric.figures)
    return next((figure for figure in figures if figure.name == name), Figure(name))


@dataclass(frozen=True)
class Description:
    """A metric in words, for the documentation."""

    name: str
    figures: tuple[Figure, ...]  # each with its name, its unit and whether more is better
    needs: tuple[str, ...]  # such as "latents"
    network: str | None  # whose weights it needs, by the name in --weights
    options: tuple[str, ...]  # that only such metrics read, such as "--reference"
    protocol: str  # a sentence without a full stop


def describe_metrics() -> list[Description]:
    """Return all metrics in words, in the order of METRICS."""
    return [
        Description(
            name=name,
            figures=metric.figures,
            needs=tuple(need.words for need in metric.needs),
            network=metric.network,
            options=tuple(f"--{option.replace('_', '-')}" for option in metric.options),
            protocol=metric.protocol,
        )
        for name, metric in METRICS.items()
    ]
