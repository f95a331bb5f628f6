"""The plan of an evaluation: the metrics that were asked for and can be computed."""

from collections.abc import Sequence
from dataclasses import dataclass

from tcae_cli.errors import SourceError, UsageError, WeightsError
from tcae_cli.evaluation.metrics.metric import Metric
from tcae_cli.evaluation.metrics.registry import ALL, METRICS, chosen_metrics
from tcae_cli.evaluation.setting import Setting
from tcae_cli.reports.evaluation import EvalRequest

_OPTIONS_OF_METRICS = ("reference", "probe_data")  # fields of EvalRequest that only some metrics read


@dataclass(frozen=True)
class Plan:
    """Metrics that are ready to count, and those that cannot be computed."""

    setting: Setting
    metrics: list[Metric]  # in the order of the table
    skipped: dict[str, str]  # names of metrics that "all" asked for, and why they cannot be computed

    @property
    def looks_at_images(self) -> bool:
        """Whether any of the metrics does."""
        return any(metric.looks_at_images for metric in self.metrics)


def choose_metrics(request: EvalRequest) -> list[type[Metric]]:
    """Return the metrics that were asked for. Raises UsageError for a name that is none, or an option of no use."""
    metrics = [METRICS[name] for name in chosen_metrics(request.metrics)]
    for option in _OPTIONS_OF_METRICS:
        if getattr(request, option) is not None and not any(option in metric.options for metric in metrics):
            users = sorted(metric.name for metric in METRICS.values() if option in metric.options)
            raise UsageError(
                f"--{option.replace('_', '-')} is for {' and '.join(users)}; ask for one with --metric, or omit it"
            )
    return metrics


def make_plan(metrics: Sequence[type[Metric]], setting: Setting) -> Plan:
    """Return the metrics ready to count. With "all", those that cannot be computed are skipped.

    Raises UsageError for a metric that does not suit what is evaluated, WeightsError for a network without weights,
    SourceError for images that do not suit a metric.
    """
    ready = []
    skipped = {}
    for metric in metrics:
        try:
            if refusal := metric.refusal(setting.subject):
                raise UsageError(refusal)
            ready.append(metric(setting))
        except (UsageError, WeightsError, SourceError) as error:
            if ALL not in setting.request.metrics:
                raise
            skipped[metric.name] = str(error)
    if not ready:
        raise UsageError(f"--metric {ALL}: nothing can be computed; {'; '.join(dict.fromkeys(skipped.values()))}")
    return Plan(setting, ready, skipped)
