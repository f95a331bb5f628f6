"""`tcae eval`: how good reconstructions and latents are, and how each figure came about."""

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from tcae_cli.errors import DiskError
from tcae_cli.evaluation.account import failures, protocol, warnings
from tcae_cli.evaluation.candidates import StoreCandidate
from tcae_cli.evaluation.examples import make_examples
from tcae_cli.evaluation.measures import OfLatents
from tcae_cli.evaluation.metrics.cost import cost_figures
from tcae_cli.evaluation.metrics.ifid import interpolated_latents
from tcae_cli.evaluation.metrics.registry import make_plan
from tcae_cli.evaluation.page.write import prepare_folder, write_page
from tcae_cli.evaluation.plan import Plan
from tcae_cli.evaluation.probe_data import ProbeData, look_at_probe_data
from tcae_cli.evaluation.reference import show_to_references
from tcae_cli.evaluation.subject import open_subject
from tcae_cli.evaluation.viewer import Seen, Viewer
from tcae_cli.features import inception
from tcae_cli.metrics.frechet import FeatureSums, frechet_distance
from tcae_cli.reports.evaluation import EvalReport, EvalRequest, Evaluation
from tcae_cli.reports.progress import Progress, Silent
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import choose_device, exact_float32
from tcae_cli.runtime.process_group import add_over_ranks, process_group


def evaluate(request: EvalRequest, progress: Progress) -> EvalReport:
    """Every metric asked for, of each model, store or folder; started on several ranks, they share the images.

    The figures do not depend on the number of ranks; the first rank's report has them. Raises a TcaeError for models,
    sources, stores, metrics and weights that cannot work, alone or together.
    """
    device = choose_device(request.device, distributed.local_rank())
    with process_group(device), exact_float32(), torch.no_grad(), TemporaryDirectory() as scratch:
        return _evaluate(request, device, Path(scratch), progress if distributed.rank() == 0 else Silent())


def _evaluate(request: EvalRequest, device: torch.device, scratch: Path, progress: Progress) -> EvalReport:
    started = time.perf_counter()
    if request.report is not None and distributed.rank() == 0:
        prepare_folder(request.report)
    subject = open_subject(request, device, scratch)
    plan = make_plan(request, subject, device)

    # All ranks: each image is shown to one of them, and what they count is added up.
    viewer = Viewer(subject.size, device, request.batch_size, request.num_workers, progress)
    if "gfid" in plan.metrics and subject.real is not None and plan.real.known is None:
        show_to_references(viewer, subject.real, [plan.real], lambda _positions, _images: None)
    seen = _look_at_reconstructions(plan, viewer) if plan.references or any(plan.measures) else None
    interpolated = _interpolate(plan, seen, progress) if seen and "ifid" in plan.metrics else []
    probes = look_at_probe_data(plan, viewer) if seen and "probe" in plan.metrics else None

    # The first rank: figures from the sums.
    numbers = range(len(subject.candidates)) if distributed.rank() == 0 else ()
    num_failed = len(seen.good) - seen.num_good if seen else 0
    report = EvalReport(
        rank=distributed.rank(),
        data=subject.originals.name if subject.originals else "",
        num_images=seen.num_good if seen else 0,
        num_failed=num_failed,
        failures=failures(plan, seen) if seen and num_failed and numbers else [],
        too_many_failed=request.max_failures.exceeded(num_failed, len(seen.good) if seen else 0),
        protocol=protocol(plan),
        evaluations=[_evaluation(plan, number, interpolated, probes, progress) for number in numbers],
        skipped=plan.skipped,
        warnings=list(warnings(plan, seen)) if seen else [],
        page=None,
        elapsed_s=time.perf_counter() - started,
    )
    return report if request.report is None or not numbers else _with_page(plan, seen, report)


def _evaluation(
    plan: Plan, number: int, interpolated: list[FeatureSums], probes: ProbeData | None, progress: Progress
) -> Evaluation:
    """The figures of one candidate."""
    candidate, measures = plan.subject.candidates[number], plan.measures[number]
    values = {name: value for measure in measures for name, value in measure.figures().items()}
    if interpolated:
        originals = plan.references[inception.NAME].gaussian()
        values["ifid"] = frechet_distance(interpolated[number].gaussian(), originals)
    if probes is not None:
        progress.say(f"training linear probes on {candidate.name}")
        values |= probes.figures(number)
    if "cost" in plan.metrics:
        model, card = plan.models_and_cards[number]
        request = plan.request
        values |= cost_figures(model.model, card, plan.subject.size, plan.device, request.precision, request.batch_size)
    of_latents = (measure.curves() for measure in measures if isinstance(measure, OfLatents))
    return Evaluation(name=candidate.name, values=values, channels=next(of_latents, {}))


def _with_page(plan: Plan, seen: Seen | None, report: EvalReport) -> EvalReport:
    """The report with its page written; a full disk costs the page, not the figures."""
    assert plan.request.report is not None
    try:
        examples = make_examples(plan, seen) if seen else []
        return replace(report, page=write_page(plan.request.report, report, examples))
    except DiskError as error:
        return replace(report, warnings=[*report.warnings, f"there is no page: {error}"])


def _look_at_reconstructions(plan: Plan, viewer: Viewer) -> Seen:
    """Show every image and its reconstructions to the measures, and add up what the ranks have counted."""
    subject = plan.subject
    assert subject.originals is not None

    def see(positions: Tensor, originals: Tensor) -> None:
        for candidate, measures in zip(subject.candidates, plan.measures, strict=True):
            if measures:
                pairs = candidate.pairs(positions, originals)
                for measure in measures:
                    measure.add(pairs)

    seen = show_to_references(viewer, subject.originals, list(plan.references.values()), see)
    for measures in plan.measures:
        for measure in measures:
            add_over_ranks(measure.tensors())
    return seen


def _interpolate(plan: Plan, seen: Seen, progress: Progress) -> list[FeatureSums]:
    """Features of decoded interpolations, of each candidate: all decode the same latents."""
    stores = [candidate for candidate in plan.subject.candidates if isinstance(candidate, StoreCandidate)]
    sums = [FeatureSums.zero(plan.inception.width) for _ in stores]
    queries = stores[0].rows[seen.good.numpy() == 1].tolist()
    for latents in interpolated_latents(
        stores[0].store,
        queries,
        batch_size=plan.request.batch_size,
        device=plan.device,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        progress=progress,
    ):
        for candidate, counted in zip(stores, sums, strict=True):
            counted.add(plan.inception(candidate.decoder.decode(latents)))
    for counted in sums:
        add_over_ranks(counted.tensors())
    return sums
