"""The images a report shows: the worst, the best, and some spread evenly; read and reconstructed once more."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tcae_cli.evaluation.measures import PerImage
from tcae_cli.evaluation.page.write import Example
from tcae_cli.evaluation.plan import Plan
from tcae_cli.evaluation.subject import Originals
from tcae_cli.evaluation.viewer import Seen
from tcae_cli.images.image_file import encode_image
from tcae_cli.images.loader import load_rows

Kind = Literal["worst", "best", "even"]

_NUM_EXTREME, _NUM_EVEN = 4, 8


def make_examples(plan: Plan, seen: Seen) -> list[Example]:
    """Worst and best by the first candidate's PSNR, where that was measured; the others spread over the source."""
    originals, good = plan.subject.originals, torch.nonzero(seen.good).flatten()
    assert originals is not None
    psnr = next((m for m in plan.measures[0] if isinstance(m, PerImage) and m.name == "psnr"), None)
    chosen: list[tuple[Kind, int]] = []
    if psnr is not None:
        ranking = good[psnr.values[good].argsort()].tolist()
        chosen += [("worst", position) for position in ranking[:_NUM_EXTREME]]
        chosen += [("best", position) for position in ranking[::-1][:_NUM_EXTREME]]
    count = min(_NUM_EVEN, len(good))
    chosen += [("even", int(good[place * len(good) // count])) for place in range(count)]
    return [_example(plan, originals, kind, position) for kind, position in chosen]


def _example(plan: Plan, originals: Originals, kind: Kind, position: int) -> Example:
    row = int(originals.rows[position])
    images, _, _ = load_rows(originals.source, [row], plan.subject.size, originals.resize)
    where, on_device = torch.tensor([position]), images.to(plan.device)
    decoded = {c.name: _png(c.pairs(where, on_device).decoded) for c in plan.subject.candidates}
    values = {
        candidate.name: {m.name: float(m.values[position]) for m in measures if isinstance(m, PerImage)}
        for candidate, measures in zip(plan.subject.candidates, plan.measures, strict=True)
    }
    return Example(key=originals.source.key(row), kind=kind, original=_png(images), decoded=decoded, values=values)


def _png(images: Tensor) -> bytes:
    """The first of [b, 3, h, w], uint8."""
    pixels: np.ndarray = images[0].permute(1, 2, 0).cpu().numpy()
    return encode_image(pixels, "png")
