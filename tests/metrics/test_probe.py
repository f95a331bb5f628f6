import pytest
import torch

from tcae_cli.metrics.probe import probe_accuracy, structural_loss

NUM_CLASSES, WIDTH = 6, 24


def features(signal, count, seed):
    """Noise, and `signal` times a centre that all images of a class share; features and labels."""
    centres = torch.randn(NUM_CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (count,), generator=generator)
    return signal * centres[labels] + torch.randn(count, WIDTH, generator=generator), labels


def accuracy(signal, change=lambda values: values, **options):
    train, train_labels = features(signal, 1200, seed=1)
    val, val_labels = features(signal, 600, seed=2)
    return probe_accuracy(change(train), train_labels, change(val), val_labels, **options)


def test_classes_apart_from_each_other_are_told_apart():
    assert accuracy(signal=3.0) > 0.99


def test_features_without_classes_give_about_chance():
    assert 0.5 / NUM_CLASSES < accuracy(signal=0.0) < 1.5 / NUM_CLASSES


def test_accuracy_grows_with_the_signal_and_comes_near_the_best_linear_rule():
    weak, strong = accuracy(signal=0.2), accuracy(signal=0.5)

    assert 1.5 / NUM_CLASSES < weak < strong
    assert strong > nearest_centre(signal=0.5) - 0.05


def nearest_centre(signal):
    """The best there is for Gaussian classes of one spread, whose centres are known."""
    centres = torch.randn(NUM_CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    val, labels = features(signal, 600, seed=2)
    return float((torch.cdist(val, signal * centres).argmin(dim=1) == labels).float().mean())


@pytest.mark.parametrize("change", [lambda values: 1e-3 * values, lambda values: 50 * values + 7])
def test_scale_and_offset_of_the_features_do_not_matter(change):
    assert accuracy(0.5, change) == pytest.approx(accuracy(0.5), abs=0.02)


def test_a_seed_gives_the_same_accuracy_again():
    assert accuracy(0.2, seed=1) == accuracy(0.2, seed=1)


def test_channels_that_never_vary_do_no_harm():
    assert accuracy(3.0, lambda values: torch.cat([values, torch.ones(len(values), 2)], dim=1)) > 0.99


def test_fewer_images_than_a_batch_are_enough():
    train, labels = features(3.0, 40, seed=1)

    assert probe_accuracy(train, labels, train, labels) > 0.9


def test_structural_loss_is_the_share_of_accuracy_lost():
    # of the paper's table: probes of 39.1 % and 12.1 % are a loss of 0.69
    assert structural_loss(0.391, 0.121) == pytest.approx(0.69, abs=0.005)
    assert structural_loss(0.4, 0.4) == 0
