"""How the figures of an evaluation were taken, and what to keep in mind when they are read."""

from collections.abc import Iterator

from tcae_cli.evaluation.plan import Plan
from tcae_cli.evaluation.subject import Originals
from tcae_cli.evaluation.viewer import Seen

_RESIZE_WORDS = {"adm": "ADM does (box halving, then bicubic)", "torch": "torch does (bicubic, antialiased)"}


def protocol(plan: Plan) -> dict[str, str]:
    """Return how the figures were taken, by step, in the order of the work, and then by metric."""
    subject = plan.setting.subject
    request = plan.setting.request
    words: dict[str, str] = {}
    if subject.is_generated:
        words["samples"] = "the files as they are"
        if subject.real is not None:
            words["real images"] = _crop(subject.size, subject.real)
    elif subject.originals is not None:
        words["crop"] = _crop(subject.size, subject.originals)
        words["reference"] = "the same crops of the same images"
        words["rounding"] = "8 bits, half up" if subject.models else "the files as they are"
    if subject.store is not None:
        words["latents"] = f"as the store holds them, {subject.store.spec.dtype}"
    if subject.models:
        words["precision"] = request.precision
    if request.reference is not None:
        words["reference"] = f"the statistics in {request.reference}, whatever images they are of"
    return words | {metric.name: metric.protocol_here() for metric in plan.metrics}


def warnings(plan: Plan, seen: Seen) -> Iterator[str]:
    """Say what to keep in mind of the images that were evaluated, and of each metric."""
    yield from plan.setting.subject.warnings
    for metric in plan.metrics:
        yield from metric.warnings(seen)


def _crop(size: int, originals: Originals) -> str:
    return f"centre {size} px, short side resized as {_RESIZE_WORDS[originals.resize]}"
