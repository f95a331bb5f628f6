"""`tcae eval`: measures reconstructions and latents, and records how each figure was computed."""

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from tcae_cli.errors import DiskError
from tcae_cli.evaluation.account import protocol, warnings
from tcae_cli.evaluation.examples import make_examples
from tcae_cli.evaluation.metrics.metric import Metric
from tcae_cli.evaluation.page.write import prepare_folder, write_page
from tcae_cli.evaluation.plan import Plan, choose_metrics, make_plan
from tcae_cli.evaluation.reference import show_to_references
from tcae_cli.evaluation.setting import Setting
from tcae_cli.evaluation.subject import Originals, open_subject
from tcae_cli.evaluation.viewer import Seen, Viewer
from tcae_cli.reports.evaluation import EvalReport, EvalRequest, Evaluation
from tcae_cli.reports.progress import Progress, Silent
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import choose_device, exact_float32, naming_the_batch_size
from tcae_cli.runtime.process_group import add_over_ranks, process_group, wait_for_all_ranks


def evaluate(request: EvalRequest, progress: Progress) -> EvalReport:
    """Compute every metric asked for, of each model, store or folder; several ranks share the images.

    The figures do not depend on the number of ranks; the first rank's report has them. Raises a TcaeError for models,
    sources, stores, metrics and weights that cannot work, alone or together.
    """
    device = choose_device(request.device)
    with (
        process_group(device),
        naming_the_batch_size(),
        exact_float32(),
        torch.no_grad(),
        TemporaryDirectory() as scratch,
    ):
        return _evaluate(request, device, Path(scratch), progress if distributed.rank() == 0 else Silent())


def _evaluate(request: EvalRequest, device: torch.device, scratch: Path, progress: Progress) -> EvalReport:
    started = time.perf_counter()
    is_first = distributed.rank() == 0
    metrics = choose_metrics(request)
    if request.report is not None and is_first:
        prepare_folder(request.report)
    with_images = any(metric.looks_at_images for metric in metrics)
    subject = open_subject(request, device, scratch, progress, with_images=with_images)
    plan = make_plan(metrics, Setting(request, subject, device, progress))
    wait_for_all_ranks()  # until each has listed the images, and one has fetched the networks

    # All ranks: each image is shown to one of them, and what they count is added up.
    seen = None
    failures = []
    if plan.looks_at_images:
        assert subject.originals is not None
        viewer = Viewer(subject.size, device, request.batch_size, request.num_workers, progress)
        seen = _show_images(plan, viewer, subject.originals)
        for metric in plan.metrics:
            metric.after_images(viewer, seen)
        if is_first:
            failures = viewer.failures(subject.originals, seen)

    # The first rank: figures from the sums.
    num_failed = seen.num_failed if seen else 0
    report = EvalReport(
        rank=distributed.rank(),
        data=subject.originals.name if subject.originals else "",
        num_images=seen.num_good if seen else 0,
        num_failed=num_failed,
        failures=failures,
        too_many_failed=request.max_failures.exceeded(num_failed, len(seen.good) if seen else 0),
        protocol=protocol(plan),
        evaluations=[_evaluation(plan, number) for number in range(len(subject.candidates))] if is_first else [],
        skipped=plan.skipped,
        warnings=list(warnings(plan, seen)) if seen else [],
        page=None,
        elapsed_s=time.perf_counter() - started,
    )
    return _with_page(plan, seen, request.report, report) if request.report is not None and is_first else report


def _show_images(plan: Plan, viewer: Viewer, originals: Originals) -> Seen:
    """Show every image and its reconstructions to the metrics, and sum what the ranks have counted."""
    setting = plan.setting
    metrics = [metric for metric in plan.metrics if metric.counts_batches]
    counters: list[Setting | Metric] = [setting, *metrics]

    def see(positions: Tensor, images: Tensor) -> None:
        for number, candidate in enumerate(setting.subject.candidates if metrics else ()):
            batch = candidate.pairs(positions, images)
            for counter in counters:
                counter.add(number, batch)

    seen = show_to_references(viewer, originals, list(setting.references.values()), see)
    for counter in counters:
        add_over_ranks(counter.tensors())
    return seen


def _evaluation(plan: Plan, number: int) -> Evaluation:
    """Return the figures of one candidate."""
    values: dict[str, float] = {}
    channels: dict[str, list[float]] = {}
    for metric in plan.metrics:
        values |= metric.values(number)
        channels |= metric.curves(number)
    return Evaluation(name=plan.setting.subject.candidates[number].name, values=values, channels=channels)


def _with_page(plan: Plan, seen: Seen | None, folder: Path, report: EvalReport) -> EvalReport:
    """Return the report with its page written; a full disk costs the page, not the figures."""
    try:
        examples = make_examples(plan, seen) if seen else []
        return replace(report, page=write_page(folder, report, examples))
    except DiskError as error:
        return replace(report, warnings=[*report.warnings, f"there is no page: {error}"])
