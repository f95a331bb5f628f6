import math

import numpy as np
import pytest
import torch

from tcae_cli.metrics.latent import LatentSums, effective_rank, effective_rank_of_covariance


def latents(rank, channels=16, count=4000, seed=0):
    """Of equal variance in `rank` directions of `channels`, and of none in the others."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(channels, channels, generator=generator))[0]
    return torch.randn(count, rank, generator=generator) @ rotation[:rank]


@pytest.mark.parametrize("rank", [1, 3, 8, 16])
def test_latents_of_a_known_rank_have_it(rank):
    assert effective_rank(latents(rank)) == pytest.approx(rank, rel=2e-3)


def test_directions_count_by_their_deviation():
    values = latents(2, channels=2, count=100_000) @ torch.diag(torch.tensor([3.0, 1.0]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))

    aligned = values @ torch.eye(2)
    assert effective_rank_of_covariance(torch.diag(torch.tensor([9.0, 1.0]))) == pytest.approx(math.exp(entropy))
    assert 1.0 < effective_rank(aligned) < 2.0


def test_rank_equals_that_of_the_singular_values_of_the_centred_matrix():
    values = latents(5) @ torch.randn(16, 16, generator=torch.Generator().manual_seed(3)) + 2
    sigma = np.linalg.svd((values - values.mean(dim=0)).double().numpy(), compute_uv=False)
    shares = sigma[sigma > 1e-3 * sigma[0]] / sigma.sum()

    assert effective_rank(values) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)


def test_an_offset_of_all_latents_changes_nothing():
    assert effective_rank(latents(3) + 100) == pytest.approx(effective_rank(latents(3)), rel=1e-3)


def test_the_scale_of_a_covariance_changes_nothing():
    covariance = torch.cov(latents(7).T.double())

    assert effective_rank_of_covariance(1e-6 * covariance) == pytest.approx(effective_rank(latents(7)), rel=1e-3)


def test_latents_that_do_not_vary_have_rank_nought():
    assert effective_rank(torch.full((10, 4), 2.0)) == 0


# Of latents [b, c, h, w], batch by batch


def noise(b=40, c=4, h=6, w=5, seed=0):
    return torch.randn(b, c, h, w, generator=torch.Generator().manual_seed(seed))


def waves(b=40, c=4, h=16, w=16):
    """Smooth in both directions: sines of long waves at random places."""
    phases = 6.3 * torch.rand(b, c, 1, 1, generator=torch.Generator().manual_seed(0))
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.sin(phases + 0.15 * y + 0.1 * x)


def sums_of(latents, num_parts=3):
    sums = LatentSums.zero(latents.shape[1])
    for part in latents.tensor_split(num_parts):
        sums.add(part)
    return sums


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_latents_of_a_known_rank_have_it_batch_by_batch(rank):
    values = latents(rank, count=6000).reshape(100, 10, 6, 16).movedim(3, 1)

    sums = sums_of(values + 5)
    assert sums.effective_rank() == pytest.approx(rank, rel=2e-3)
    assert sums.effective_rank() == pytest.approx(effective_rank(values.movedim(1, 3).reshape(-1, 16)), rel=1e-4)
    assert sums.curves()["spectrum"] == pytest.approx([1 / rank] * rank + [0] * (16 - rank), abs=0.02)


def test_curves_are_what_numpy_says_of_each_channel():
    values = noise() * torch.tensor([1.0, 3.0, 0.2, 2.0])[:, None, None] + torch.arange(4.0)[:, None, None]
    rows = values.double().movedim(1, 3).reshape(-1, 4).numpy()

    curves = sums_of(values).curves()
    assert curves.keys() == {"mean", "std", "spatial_correlation", "spectrum"}
    assert curves["mean"] == pytest.approx(rows.mean(axis=0))
    assert curves["std"] == pytest.approx(rows.std(axis=0))
    shares = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    assert curves["spectrum"] == pytest.approx(shares / shares.sum())


def test_stds_are_those_of_the_least_the_median_and_the_most_varying_channel():
    figures = sums_of(noise(b=400) * torch.tensor([1.0, 3.0, 0.5, 2.0])[:, None, None]).figures()

    expected = {"channel-std-min": 0.5, "channel-std-median": 1.5, "channel-std-max": 3}
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("channels", [4, 128])
@pytest.mark.parametrize(
    ("factor", "dead", "dominant"), [(1, 0, 0), (0.02, 0, 0), (0.008, 1, 0), (0, 1, 0), (2.8, 0, 0), (3.5, 0, 1)]
)
def test_a_channel_far_from_the_median_is_dead_or_dominant(channels, factor, dead, dominant):
    values = noise(c=channels, b=100)
    values[:, 1] *= factor

    figures = sums_of(values + 3).figures()
    assert (figures["dead-channels"], figures["dominant-channels"]) == (dead, dominant)


def test_neighbours_in_white_noise_do_not_correlate_and_in_smooth_latents_they_do():
    assert abs(sums_of(noise(b=200)).figures()["spatial-correlation"]) < 0.01
    assert sums_of(waves()).figures()["spatial-correlation"] > 0.98
    checkers = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).expand(3, 2, 2, 2)
    assert sums_of(checkers).figures()["spatial-correlation"] == pytest.approx(-1)


def test_spatial_correlation_equals_that_of_a_plain_loop_over_pairs():
    values = waves(b=5, c=3, h=4, w=6) + 0.5 * noise(b=5, c=3, h=4, w=6) + 2
    expected = []
    for channel in values.movedim(1, 0).double().tolist():
        pairs = []
        for image in channel:
            for y in range(4):
                for x in range(6):
                    pairs += [(image[y][x], image[y][x + 1])] if x < 5 else []
                    pairs += [(image[y][x], image[y + 1][x])] if y < 3 else []
        both_orders = np.array(pairs + [(other, one) for one, other in pairs])
        expected.append(np.corrcoef(both_orders.T)[0, 1])

    sums = sums_of(values)
    assert sums.curves()["spatial_correlation"] == pytest.approx(expected, abs=1e-9)
    assert sums.figures()["spatial-correlation"] == pytest.approx(np.mean(expected), abs=1e-9)


def test_dead_channels_do_not_count_in_the_spatial_correlation():
    values = waves()
    values[:, 2] = 1e-4 * noise(h=16, w=16)[:, 2]

    assert sums_of(values).figures()["spatial-correlation"] > 0.98


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_sums_of_ranks_add_up_to_those_of_one(num_ranks):
    values = waves() + noise(h=16, w=16)
    together, alone = LatentSums.zero(4), sums_of(values, num_parts=7)
    for part in values.tensor_split(num_ranks):
        for total, tensor in zip(together.tensors(), sums_of(part, 1).tensors(), strict=True):
            total += tensor

    assert together.figures() == pytest.approx(alone.figures(), rel=1e-10)
    assert together.effective_rank() == pytest.approx(alone.effective_rank(), rel=1e-10)
    for name, curve in together.curves().items():
        assert curve == pytest.approx(alone.curves()[name], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_latents_of_half_precision_are_summed_in_double(dtype):
    values = (noise() + 1).to(dtype)

    assert sums_of(values).figures() == sums_of(values.double()).figures()


@pytest.mark.parametrize(
    "values",
    [
        torch.full((10, 3, 4, 4), 0.1),
        torch.full((1, 3, 1, 1), 0.1),
        torch.zeros(2, 3, 2, 2),
        1000 + torch.arange(3.0)[None, :, None, None].expand(7, 3, 5, 5) / 3,
    ],
    ids=["constant", "one position", "zeros", "constant and far from zero"],
)
def test_latents_that_do_not_vary_are_dead_and_nothing_more(values):
    sums = sums_of(values, num_parts=1)

    assert sums.effective_rank() == 0
    figures, curves = sums.figures(), sums.curves()
    assert figures.pop("dead-channels") == 3 and set(figures.values()) == {0}
    assert curves["mean"] == pytest.approx(values[0, :, 0, 0].tolist())
    assert curves["std"] == curves["spatial_correlation"] == curves["spectrum"] == [0, 0, 0]


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 6), (6, 1)])
def test_latents_of_a_single_row_or_column_or_position_have_the_neighbours_there_are(h, w):
    values = waves(h=h, w=w)

    correlation = sums_of(values).figures()["spatial-correlation"]
    assert correlation == 0 if h == w else correlation > 0.9
    assert sums_of(values[:1], 1).figures()["dominant-channels"] == 0
    assert math.isfinite(sums_of(values[:1], 1).effective_rank())
