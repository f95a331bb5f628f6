"""The Inception Score against torch-fidelity's own."""

import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from tcae_cli.metrics.inception_score import InceptionScoreSums


def logits(num_rows: int, num_classes: int = 1008) -> torch.Tensor:
    return 3 * torch.randn(num_rows, num_classes, generator=torch.Generator().manual_seed(0))


def fidelitys(logits: torch.Tensor, splits: int = 10) -> float:
    return isc_features_to_metric(logits, splits=splits)["inception_score_mean"]


@pytest.mark.parametrize("num_rows", [10, 103, 400])
def test_the_score_is_torch_fidelitys_whatever_the_order_of_batches(num_rows):
    values, sums = logits(num_rows), InceptionScoreSums(num_rows)
    for positions in torch.randperm(num_rows, generator=torch.Generator().manual_seed(1)).split(32):
        sums.add(positions, values[positions])

    assert sums.score() == pytest.approx(fidelitys(values), rel=1e-9)


def test_sums_of_ranks_add_up_to_those_of_one():
    values, ranks = logits(103), [InceptionScoreSums(103) for _ in range(3)]
    for rank, sums in enumerate(ranks):
        sums.add(torch.arange(rank, 103, 3), values[rank::3])
    for total, *others in zip(*(sums.tensors() for sums in ranks), strict=True):
        for other in others:
            total += other

    assert all(tensor.dtype == torch.float64 for tensor in ranks[0].tensors())
    assert ranks[0].score() == pytest.approx(fidelitys(values), rel=1e-9)
    assert ranks[1].score() != pytest.approx(fidelitys(values), rel=1e-3)


def test_classes_and_splits_may_be_others():
    values, sums = logits(50, num_classes=7), InceptionScoreSums(50, num_classes=7, num_splits=3)
    sums.add(torch.arange(50), values)

    assert sums.score() == pytest.approx(fidelitys(values, splits=3), rel=1e-9)


def test_sure_images_of_different_classes_score_their_number_and_alike_ones_1():
    sure, alike = InceptionScoreSums(8, num_splits=1), InceptionScoreSums(8, num_splits=1)
    sure.add(torch.arange(8), 1e4 * torch.eye(8, 1008))
    alike.add(torch.arange(8), torch.ones(8, 1008))

    assert (sure.score(), alike.score()) == (pytest.approx(8), pytest.approx(1))


def test_splits_without_rows_are_left_out():
    values, sums = logits(4), InceptionScoreSums(4)
    sums.add(torch.arange(4), values)

    assert sums.score() == pytest.approx(1)  # an image alone in its split is not unlike others


def test_rows_that_were_never_added_do_not_count():
    values, sums = logits(40), InceptionScoreSums(40, num_splits=1)
    sums.add(torch.arange(30), values[:30])

    assert sums.score() == pytest.approx(fidelitys(values[:30], splits=1), rel=1e-9)


def test_there_is_no_score_of_no_images():
    with pytest.raises(ValueError, match="an Inception Score needs an image"):
        InceptionScoreSums(10).score()
