"""Probes: on synthetic features whose classes lie apart, and on labels of two sources that number them differently."""

import numpy as np
import pytest
import torch

from tcae_cli.errors import SourceError, UsageError
from tcae_cli.evaluation.metrics.probe import LabelledRows, ProbeFeatures, check_classes, probe_figures, split_rows

NUM_CLASSES, NUM_ROWS, WIDTH, CHANNELS = 4, 200, 16, 3
NAMES = ("ant", "bee", "cat", "dog")
CPU = torch.device("cpu")


def labels_of(num_rows=NUM_ROWS, seed=0):
    return np.random.default_rng(seed).integers(NUM_CLASSES, size=num_rows)


def features_of(labels, *, kept=CHANNELS, seed=1, filled=slice(None)):
    """Tokens around a centre for each class; latents that keep so many directions of them and noise for the rest."""
    generator = torch.Generator().manual_seed(seed)
    centres = 6 * torch.eye(NUM_CLASSES, WIDTH)
    tokens = centres[labels] + torch.randn(len(labels), WIDTH, generator=generator)
    latents = tokens[:, :CHANNELS, None, None] + torch.zeros(1, 1, 2, 2)
    latents[:, kept:] = torch.randn(len(labels), CHANNELS - kept, 2, 2, generator=generator)
    features = ProbeFeatures(len(labels), CHANNELS, WIDTH)
    positions = torch.arange(len(labels))[filled]
    features.add(positions, latents[positions], tokens[positions])
    return features


def side(labels, rows=None, class_names=NAMES, data="here"):
    rows = np.arange(len(labels)) if rows is None else rows
    return LabelledRows(data=data, labels=np.array(labels), class_names=class_names, rows=np.array(rows, np.int64))


def figures_of(labels, features):
    train_rows, val_rows = split_rows(labels)
    return probe_figures(side(labels, train_rows), features, side(labels, val_rows), features, CPU)


def test_classes_apart_are_read_off_tokens_and_off_latents_that_keep_them():
    figures = figures_of(labels_of(), features_of(labels_of()))

    assert figures["probe-tokens"] > 0.95 and figures["probe-latents"] > 0.95
    assert abs(figures["structural-loss"]) < 0.05


def test_shuffled_labels_are_read_off_about_as_often_as_by_chance():
    shuffled = np.random.default_rng(7).permutation(labels_of(1000))

    figures = figures_of(shuffled, features_of(labels_of(1000)))

    assert 0.6 / NUM_CLASSES < figures["probe-tokens"] < 1.6 / NUM_CLASSES


def test_latents_that_lose_directions_cost_accuracy():
    figures = figures_of(labels_of(), features_of(labels_of(), kept=1))

    assert figures["probe-latents"] < 0.8 < figures["probe-tokens"]
    assert figures["structural-loss"] == pytest.approx(1 - figures["probe-latents"] / figures["probe-tokens"])


def test_a_model_without_tokens_is_probed_by_its_latents_alone():
    features = ProbeFeatures(NUM_ROWS, CHANNELS)
    features.add(torch.arange(NUM_ROWS), features_of(labels_of()).latents[:, :, None, None], None)

    assert figures_of(labels_of(), features).keys() == {"probe-latents", "probe-chance"}


@torch.no_grad()
def test_probes_are_trained_where_gradients_are_off_too():
    assert figures_of(labels_of(), features_of(labels_of()))["probe-tokens"] > 0.95


def test_parts_of_ranks_add_up_to_the_features_of_one():
    alone = features_of(labels_of())
    parts = [features_of(labels_of(), filled=slice(rank, None, 3)) for rank in range(3)]

    for parts_of_tensor, tensor in zip(
        zip(*(each.tensors() for each in parts), strict=True), alone.tensors(), strict=True
    ):
        torch.testing.assert_close(sum(parts_of_tensor), tensor, rtol=0, atol=0)


def test_a_rank_that_saw_no_image_has_tensors_of_the_same_shape():
    shapes = [
        [each.shape for each in features.tensors()]
        for features in (features_of(labels_of()), ProbeFeatures(NUM_ROWS, CHANNELS, WIDTH))
    ]

    assert shapes[0] == shapes[1]


def test_features_are_means_over_positions_in_float32():
    latents = torch.arange(24).reshape(2, 3, 2, 2).to(torch.float16)
    features = ProbeFeatures(4, 3)
    features.add(torch.tensor([3, 1]), latents, None)

    assert features.latents.tolist() == [[0] * 3, [13.5, 17.5, 21.5], [0] * 3, [1.5, 5.5, 9.5]]
    assert features.filled.tolist() == [0, 1, 0, 1] and features.latents.dtype == torch.float32


def test_one_image_in_five_of_each_class_is_measured_on_and_a_single_one_trains():
    labels = np.array([0] * 10 + [1] * 2 + [2] + [-1] * 3)

    train, val = split_rows(labels)

    assert val.tolist() == [1, 6, 11]
    assert sorted([*train, *val]) == list(range(13))


def test_classes_of_two_sources_are_the_same_by_name_not_by_number():
    train_labels, val_labels = labels_of(), labels_of(60, seed=5)
    theirs = tuple(reversed(NAMES))
    figures = probe_figures(
        side(train_labels, data="train"),
        features_of(train_labels),
        side(NUM_CLASSES - 1 - val_labels, class_names=theirs, data="val"),
        features_of(val_labels, seed=2),
        CPU,
    )

    assert figures["probe-tokens"] > 0.95


def test_images_that_failed_or_have_no_label_are_left_out():
    labels = labels_of()
    labels[::7] = -1
    good = np.flatnonzero(np.arange(NUM_ROWS) % 3)
    every = np.arange(NUM_ROWS)

    # Zeros in place of features, or numbers for the missing labels, would cost accuracy.
    figures = probe_figures(
        side(labels, every),
        features_of(labels, filled=good),
        side(labels, every),
        features_of(labels, filled=good),
        CPU,
    )

    assert figures["probe-tokens"] > 0.95


def test_a_class_that_lost_every_image_to_train_on_is_not_measured():
    labels = labels_of()
    features = features_of(labels, filled=np.flatnonzero(labels != 2))
    val_labels = labels_of(60, seed=5)

    figures = probe_figures(side(labels), features, side(val_labels), features_of(val_labels, seed=2), CPU)

    assert figures["probe-tokens"] > 0.95


@pytest.mark.parametrize(
    ("train", "val", "error", "sentence"),
    [
        (side([-1, -1]), side([0, 1]), SourceError, "here has no labels, which probes need"),
        (side([0, 1]), side([-1], data="there"), SourceError, "there has no labels, which probes need"),
        (side([1, 1]), side([1]), SourceError, "here has images of one class alone"),
        (side([0, 1]), side([0, 1], rows=[]), SourceError, "here has one image a class, which leaves none"),
        (side([0, 1]), side([0, 3], data="there"), UsageError, r"there has classes that here lacks \(dog\)"),
        (side([0, 1], class_names=()), side([5, 6, 7, 8], class_names=()), UsageError, r"lacks \(5, 6, 7, \.\.\.\)"),
        (side([0, 1]), side([0, 1], class_names=(), data="tars"), UsageError, "here has classes by name and tars by"),
    ],
)
def test_what_cannot_be_probed_is_said_before_anything_is_encoded(train, val, error, sentence):
    with pytest.raises(error, match=sentence):
        check_classes(train, val)


def test_too_few_images_left_are_a_sentence_not_a_figure():
    labels = labels_of()
    nothing = ProbeFeatures(NUM_ROWS, CHANNELS, WIDTH)

    with pytest.raises(SourceError, match="too few labelled images of here and there can be read"):
        probe_figures(side(labels), nothing, side(labels, data="there"), features_of(labels), CPU)
