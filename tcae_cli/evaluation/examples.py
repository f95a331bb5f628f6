"""The images that a report shows: the worst, the best, and some spread evenly; read and reconstructed once more."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tcae_cli.evaluation.page.write import RANKED_BY, Example
from tcae_cli.evaluation.plan import Plan
from tcae_cli.evaluation.subject import Originals
from tcae_cli.evaluation.viewer import Seen
from tcae_cli.images.image_file import encode_image
from tcae_cli.images.loader import load_rows
from tcae_cli.images.transform import Transform

Kind = Literal["worst", "best", "even"]

_NUM_EXTREME = 4
_NUM_EVEN = 8


def make_examples(plan: Plan, seen: Seen) -> list[Example]:
    """Return the worst and the best images of the first candidate, where they were ranked, and others of the source."""
    originals = plan.setting.subject.originals
    assert originals is not None
    good = torch.nonzero(seen.good).flatten()
    chosen: list[tuple[Kind, int]] = []
    for metric in plan.metrics:
        values = metric.image_values(0)
        if metric.name == RANKED_BY and values is not None:
            ranking = good[values[good].argsort()].tolist()
            chosen += [("worst", position) for position in ranking[:_NUM_EXTREME]]
            chosen += [("best", position) for position in ranking[::-1][:_NUM_EXTREME]]
    count = min(_NUM_EVEN, len(good))
    chosen += [("even", int(good[place * len(good) // count])) for place in range(count)]
    return [_example(plan, originals, kind, position) for kind, position in chosen]


def _example(plan: Plan, originals: Originals, kind: Kind, position: int) -> Example:
    setting = plan.setting
    row = int(originals.rows[position])
    [images], _, _ = load_rows(originals.source, [row], Transform.square(setting.subject.size, originals.resize))
    where = torch.tensor([position])
    on_device = images.to(setting.device)
    decoded = {}
    values = {}
    for number, candidate in enumerate(setting.subject.candidates):
        decoded[candidate.name] = _png(candidate.pairs(where, on_device).decoded)
        of_images = {metric.name: metric.image_values(number) for metric in plan.metrics}
        values[candidate.name] = {name: float(each[position]) for name, each in of_images.items() if each is not None}
    return Example(key=originals.source.key(row), kind=kind, original=_png(images), decoded=decoded, values=values)


def _png(images: Tensor) -> bytes:
    """Return the first of the images [b, 3, h, w], uint8, as a PNG file."""
    pixels: np.ndarray = images[0].permute(1, 2, 0).cpu().numpy()
    return encode_image(pixels, "png")
