"""Linear probes: how much of an image's class a model's tokens hold before the bottleneck, and its latents after it.

Axes: n images of a source, m of them that a probe uses, b batch, c latent channels, d token width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tcae_cli.errors import SourceError, UsageError
from tcae_cli.evaluation.candidates import Pairs
from tcae_cli.evaluation.metrics.figure import Figure
from tcae_cli.evaluation.metrics.metric import LABELS, LATENTS, Metric
from tcae_cli.evaluation.setting import Setting
from tcae_cli.evaluation.subject import Originals, Subject
from tcae_cli.evaluation.viewer import Seen, Viewer
from tcae_cli.metrics.probe import probe_accuracy, structural_loss
from tcae_cli.model.tcae import TCAE
from tcae_cli.runtime.process_group import add_over_ranks

_EVERY = 5  # one image in five of a class is measured on
_NAMES_SHOWN = 3
_WIDE_MARGIN = 0.02  # two standard errors of an accuracy of a half


class Probe(Metric):
    """Accuracies of linear classifiers on frozen means of tokens and of latents (arXiv:2604.07340)."""

    name = "probe"
    figures = (
        Figure("probe-tokens", unit="share of images", more_is_better=True),
        Figure("probe-latents", unit="share of images", more_is_better=True),
        Figure("probe-chance", unit="share of images"),
        Figure("structural-loss", unit="share of the tokens' accuracy", more_is_better=False),
    )
    needs = (LATENTS, LABELS)
    options = ("probe_data",)
    protocol = "linear, on mean patch tokens and on mean latents; best of 13 learning rates"

    def __init__(self, setting: Setting) -> None:
        """Raises SourceError or UsageError if the classes are not fit for probes, before anything is encoded."""
        super().__init__(setting)
        subject = setting.subject
        if setting.request.probe_data and subject.store:
            raise UsageError("--probe-data is encoded by a model, and --store evaluates existing latents; omit it")
        self._train, self._val = _sides(subject)
        check_classes(self._train, self._val)
        self._val_features = _empty_features(subject, setting.num_images)
        self._train_features = self._val_features

    def protocol_here(self) -> str:
        trained_on = self.setting.request.probe_data or "four of five images of each class, measured on the fifth"
        has_tokens = any(features.tokens is not None for features in self._val_features)
        inputs = "mean patch tokens and on mean latents" if has_tokens else "mean latents"
        return f"linear, on {inputs}, trained on {trained_on}; best of 13 learning rates"

    def add(self, number: int, batch: Pairs) -> None:
        assert batch.encoded is not None
        self._val_features[number].add(batch.positions, batch.encoded.latents, batch.encoded.tokens)

    def tensors(self) -> list[Tensor]:
        return [tensor for features in self._val_features for tensor in features.tensors()]

    def after_images(self, viewer: Viewer, seen: Seen) -> None:
        """Encode the images of --probe-data, if there are any."""
        subject = self.setting.subject
        if subject.probe_data is None:
            return
        self._train_features = _empty_features(subject, len(subject.probe_data.rows))

        def see(positions: Tensor, images: Tensor) -> None:
            for model, features in zip(subject.models, self._train_features, strict=True):
                features.add(positions, *model.encode_with_tokens(images))

        viewer.show("encode probe data", subject.probe_data, see)
        for features in self._train_features:
            add_over_ranks(features.tensors())

    def values(self, number: int) -> dict[str, float]:
        """Train the probes of a candidate and return their figures. Raises as probe_figures."""
        self.setting.progress.say(f"training linear probes on {self.setting.subject.candidates[number].name}")
        train_features, val_features = self._train_features[number], self._val_features[number]
        return probe_figures(self._train, train_features, self._val, val_features, self.setting.device)

    def warnings(self, seen: Seen) -> Iterator[str]:
        num_measured = len(self._val.rows)
        if (margin := num_measured**-0.5) > _WIDE_MARGIN:
            yield f"the probes are measured on {num_measured:,} images: each accuracy is good to about {margin:.2f}"


class ProbeFeatures:
    """The mean latent and the mean token of each image, by its position in the source; float32, on the CPU."""

    def __init__(self, num_rows: int, latent_channels: int, token_width: int | None = None) -> None:
        self.filled = torch.zeros(num_rows, dtype=torch.int64)  # 1 where there are features
        self.latents = torch.zeros(num_rows, latent_channels)
        self.tokens = None if token_width is None else torch.zeros(num_rows, token_width)

    def add(self, positions: Tensor, latents: Tensor, tokens: Tensor | None) -> None:
        """Add images that were not added before, here or on another rank.

        positions: [b], int64; latents: [b, c, h, w]; tokens: [b, d], means over patches, where there is a token width.
        """
        positions = positions.cpu()
        self.filled[positions] = 1
        self.latents[positions] = latents.float().mean(dim=(2, 3)).cpu()
        if self.tokens is not None:
            assert tokens is not None
            self.tokens[positions] = tokens.float().cpu()

    def tensors(self) -> list[Tensor]:
        """Return all tensors; those of several ranks add up."""
        return [self.filled, self.latents] + ([] if self.tokens is None else [self.tokens])


@dataclass(frozen=True, kw_only=True)
class LabelledRows:
    """Rows of a source, to train a probe on or to measure it on."""

    data: str  # the source
    labels: np.ndarray  # [n], int64, of every row of the source; -1 for none
    class_names: Sequence[str]  # of labels 0, 1, ...; empty where only numbers are known
    rows: np.ndarray  # [m], int64

    def labelled(self) -> np.ndarray:
        """Return those of the rows that have a label."""
        rows: np.ndarray = self.rows[self.labels[self.rows] >= 0]
        return rows

    def classes(self, rows: np.ndarray) -> np.ndarray:
        """Return the class of each of these rows, by name where names are known."""
        labels: np.ndarray = self.labels[rows]
        return np.array(self.class_names)[labels] if self.class_names else labels


def split_rows(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and those to measure on, both ascending, where one source serves for both.

    One image in five of each class, from the second on, is measured on, so that a class of one image only trains.
    Rows without a label, -1, are in neither. labels: [n], int64.
    """
    measured = np.zeros(len(labels), bool)
    for label in np.unique(labels[labels >= 0]):
        measured[np.flatnonzero(labels == label)[1::_EVERY]] = True
    return np.flatnonzero((labels >= 0) & ~measured), np.flatnonzero(measured)


def check_classes(train: LabelledRows, val: LabelledRows) -> None:
    """Check that a probe trained on one can be measured on the other, which shows before anything is encoded.

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
    trained, measured = (set(side.classes(side.labelled()).tolist()) for side in (train, val))
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
    """Return accuracies, in [0, 1], of probes on mean patch tokens (A1, if there are any) and on mean latents (A2).

    They are "probe-tokens", "probe-latents", "probe-chance" (one divided by the number of classes), and, where A1 is
    above 0, "structural-loss", (A1 - A2) / A1. Images that failed are left out, and so are classes whose images to
    train on all failed. Raises as check_classes, and SourceError if too few remain.
    """
    check_classes(train, val)
    train_rows = _filled(train, train_features)
    val_rows = _filled(val, val_features)
    names, train_labels = np.unique(train.classes(train_rows), return_inverse=True)
    val_rows = val_rows[np.isin(val.classes(val_rows), names)]
    if len(names) < 2 or not len(val_rows):
        raise SourceError(f"too few labelled images of {train.data} and {val.data} can be read for a probe; mend them")
    val_labels = np.searchsorted(names, val.classes(val_rows))

    def accuracy(trained: Tensor, measured: Tensor) -> float:
        labels = torch.tensor(train_labels).to(device), torch.tensor(val_labels).to(device)
        with torch.enable_grad():
            return probe_accuracy(trained[train_rows].to(device), labels[0], measured[val_rows].to(device), labels[1])

    figures = {}
    if train_features.tokens is not None and val_features.tokens is not None:
        figures["probe-tokens"] = accuracy(train_features.tokens, val_features.tokens)
    figures["probe-latents"] = accuracy(train_features.latents, val_features.latents)
    figures["probe-chance"] = 1 / len(names)
    if figures.get("probe-tokens"):
        figures["structural-loss"] = structural_loss(figures["probe-tokens"], figures["probe-latents"])
    return figures


def _filled(side: LabelledRows, features: ProbeFeatures) -> np.ndarray:
    """Return the labelled rows that there are features of."""
    rows = side.labelled()
    return rows[features.filled.numpy()[rows] > 0]


def _sides(subject: Subject) -> tuple[LabelledRows, LabelledRows]:
    """Return the rows that probes are trained on, and those that they are measured on."""
    data, others = subject.originals, subject.probe_data
    assert data is not None
    if others is None:
        train_rows, val_rows = split_rows(data.labels())
        return _labelled_rows(data, train_rows), _labelled_rows(data, val_rows)
    return _labelled_rows(others, np.arange(len(others.rows))), _labelled_rows(data, np.arange(len(data.rows)))


def _labelled_rows(images: Originals, rows: np.ndarray) -> LabelledRows:
    return LabelledRows(data=images.name, labels=images.labels(), class_names=images.source.class_names, rows=rows)


def _empty_features(subject: Subject, num_images: int) -> list[ProbeFeatures]:
    """Return, for each candidate, features of so many images that are still to be added.

    Only models of our own have tokens, and a store has none of any model's.
    """
    return [
        ProbeFeatures(
            num_images,
            card.latent_channels,
            model.model.spec.width if isinstance(model.model, TCAE) and subject.store is None else None,
        )
        for model, card in zip(subject.models, subject.cards, strict=True)
    ]
