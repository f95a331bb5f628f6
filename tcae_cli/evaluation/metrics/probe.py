"""Linear probes of a model: how much of an image's class its tokens hold before the bottleneck, and its latents after.

Axes: n images of a source, m of them that a probe uses, b batch, c latent channels, d token width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tcae_cli.errors import SourceError, UsageError
from tcae_cli.metrics.probe import probe_accuracy, structural_loss

_EVERY = 5  # that one image in five of a class is measured on
_NAMES_SHOWN = 3


class ProbeFeatures:
    """What an image's latents and tokens are in the mean, by its position in the source; float32, on the CPU."""

    def __init__(self, num_rows: int, latent_channels: int, token_width: int | None = None) -> None:
        self.filled = torch.zeros(num_rows, dtype=torch.int64)  # 1 where there are features
        self.latents = torch.zeros(num_rows, latent_channels)
        self.tokens = None if token_width is None else torch.zeros(num_rows, token_width)

    def add(self, positions: Tensor, latents: Tensor, tokens: Tensor | None) -> None:
        """Take in images not added before, here or on another rank.

        positions: [b], int64; latents: [b, c, h, w]; tokens: [b, d], means over patches, where there is a token width.
        """
        positions = positions.cpu()
        self.filled[positions] = 1
        self.latents[positions] = latents.float().mean(dim=(2, 3)).cpu()
        if self.tokens is not None:
            assert tokens is not None
            self.tokens[positions] = tokens.float().cpu()

    def tensors(self) -> list[Tensor]:
        """All of it; those of several ranks add up."""
        return [self.filled, self.latents] + ([] if self.tokens is None else [self.tokens])


@dataclass(frozen=True, kw_only=True)
class LabelledRows:
    """Rows of a source, to train a probe on or to measure it on."""

    data: str  # the source
    labels: np.ndarray  # [n], int64, of every row of the source; -1 for none
    class_names: Sequence[str]  # of labels 0, 1, ...; none where only numbers are known
    rows: np.ndarray  # [m], int64


def split_rows(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows to train on and those to measure on, both ascending, where there is one source.

    Of each class one in five, from the second on, is measured on, so that a class of one image only trains. Rows
    without a label, -1, are in neither. labels: [n], int64.
    """
    measured = np.zeros(len(labels), bool)
    for label in np.unique(labels[labels >= 0]):
        measured[np.flatnonzero(labels == label)[1::_EVERY]] = True
    return np.flatnonzero((labels >= 0) & ~measured), np.flatnonzero(measured)


def check_classes(train: LabelledRows, val: LabelledRows) -> None:
    """Whether a probe trained on one can be measured on the other; nothing has to be encoded to know.

    Raises SourceError if there are no labels, or fewer than two classes, or nothing to measure on; UsageError if the
    two do not have the same classes.
    """
    for side in (train, val):
        if not (side.labels >= 0).any():
            raise SourceError(f"{side.data} has no labels, which probes need; sort its images into a folder a class")
    if bool(train.class_names) != bool(val.class_names):
        named, numbered = (train, val) if train.class_names else (val, train)
        raise UsageError(
            f"{named.data} has classes by name and {numbered.data} by number, and nothing says which is which; "
            f"give --data and --probe-data of one kind"
        )
    trained, measured = (set(_classes(side, _labelled(side)).tolist()) for side in (train, val))
    if len(trained) < 2:
        raise SourceError(f"{train.data} has images of one class alone, and a probe tells two apart; give more classes")
    if not measured:
        raise SourceError(f"{val.data} has one image a class, which leaves none to measure on; give --probe-data")
    if missing := sorted(measured - trained):
        names = ", ".join(map(str, missing[:_NAMES_SHOWN])) + (", ..." if len(missing) > _NAMES_SHOWN else "")
        raise UsageError(f"{val.data} has classes that {train.data} lacks ({names}); give --probe-data that has them")


def probe_figures(
    train: LabelledRows,
    train_features: ProbeFeatures,
    val: LabelledRows,
    val_features: ProbeFeatures,
    device: torch.device,
) -> dict[str, float]:
    """Accuracies, in [0, 1], of probes on mean patch tokens (A1, if there are any) and on mean latents (A2).

    "probe-tokens", "probe-latents", "probe-chance" (one in as many as there are classes), and "structural-loss"
    (A1 - A2) / A1 where A1 is above 0. Images that failed are left out, and classes whose images to train on all did.
    Raises as check_classes, and SourceError if too few remain.
    """
    check_classes(train, val)
    train_rows, val_rows = _filled(train, train_features), _filled(val, val_features)
    names, train_labels = np.unique(_classes(train, train_rows), return_inverse=True)
    val_rows = val_rows[np.isin(_classes(val, val_rows), names)]
    if len(names) < 2 or not len(val_rows):
        raise SourceError(f"too few labelled images of {train.data} and {val.data} can be read for a probe; mend them")

    figures = {}
    with torch.enable_grad():
        labels = torch.tensor(train_labels), torch.tensor(np.searchsorted(names, _classes(val, val_rows)))
        for name, trained, measured in (
            ("probe-tokens", train_features.tokens, val_features.tokens),
            ("probe-latents", train_features.latents, val_features.latents),
        ):
            if trained is not None and measured is not None:
                figures[name] = probe_accuracy(
                    trained[train_rows].to(device),
                    labels[0].to(device),
                    measured[val_rows].to(device),
                    labels[1].to(device),
                )
    figures["probe-chance"] = 1 / len(names)
    if figures.get("probe-tokens"):
        figures["structural-loss"] = structural_loss(figures["probe-tokens"], figures["probe-latents"])
    return figures


def _labelled(side: LabelledRows) -> np.ndarray:
    rows: np.ndarray = side.rows[side.labels[side.rows] >= 0]
    return rows


def _filled(side: LabelledRows, features: ProbeFeatures) -> np.ndarray:
    rows = _labelled(side)
    return rows[features.filled.numpy()[rows] > 0]


def _classes(side: LabelledRows, rows: np.ndarray) -> np.ndarray:
    """The class of each of these rows, by name where names are known."""
    labels: np.ndarray = side.labels[rows]
    return np.array(side.class_names)[labels] if side.class_names else labels
