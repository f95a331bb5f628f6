"""What an evaluation says besides its figures: how they came about, what failed, and how far to trust them."""

from collections.abc import Iterator

import torch

from tcae_cli.evaluation.plan import Plan
from tcae_cli.evaluation.subject import Originals
from tcae_cli.evaluation.viewer import Seen
from tcae_cli.images.loader import load_rows

_DISTANCES = ("rfid", "fd-dinov2", "ifid", "gfid")
_PUBLISHED_ON = 10_000  # images, at least
_FAILURES_SHOWN = 10
_WIDE_MARGIN = 0.02  # two standard errors of an accuracy of a half
_RESIZE_WORDS = {"adm": "ADM does (box halving, then bicubic)", "torch": "torch does (bicubic, antialiased)"}


def protocol(plan: Plan) -> dict[str, str]:
    """How the figures came about, in the order it happened."""
    subject, request = plan.subject, plan.request
    words: dict[str, str] = {}
    if request.samples:
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
    return words | plan.protocol


def _crop(size: int, originals: Originals) -> str:
    return f"centre {size} px, short side resized as {_RESIZE_WORDS[originals.resize]}"


def failures(plan: Plan, seen: Seen) -> list[dict[str, str]]:
    """The first few images that were left out, and why: they are read once more."""
    originals = plan.subject.originals
    assert originals is not None
    found = []
    for position in torch.nonzero(seen.good == 0).flatten()[:_FAILURES_SHOWN].tolist():
        row = int(originals.rows[position])
        _, _, problems = load_rows(originals.source, [row], plan.subject.size, originals.resize)
        reason = problems[row].error if row in problems else "not the image that the store was made from"
        found.append({"path": originals.source.key(row), "reason": reason})
    return found


def warnings(plan: Plan, seen: Seen) -> Iterator[str]:
    """What to keep in mind of figures that few images gave."""
    yield from plan.subject.warnings
    num_images = seen.num_good
    for metric in filter(plan.metrics.__contains__, _DISTANCES):
        if num_images < 2:
            yield f"{metric} is undefined: it needs two images"
        elif num_images < _PUBLISHED_ON:
            width = (plan.dinov2 if metric == "fd-dinov2" else plan.inception).width
            fewer = f", fewer than its {width:,} features" if num_images < width else ""
            yield f"{metric} is of {num_images:,} images{fewer}: compare it with figures of as many images only"
    if "probe" in plan.metrics:
        num_measured = len(plan.probe_sides[1].rows)
        if (margin := num_measured**-0.5) > _WIDE_MARGIN:
            yield f"the probes are measured on {num_measured:,} images: each accuracy is good to about {margin:.2f}"
