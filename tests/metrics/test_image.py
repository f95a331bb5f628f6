import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tcae_cli.metrics.image import mean_without_infinite, psnr, ssim


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    original = torch.nn.functional.interpolate(torch.rand(3, 3, 9, 12, generator=generator), scale_factor=8)
    noise = torch.randn(original.shape, generator=generator)
    return original, (original + torch.tensor([0.02, 0.1, 0.3]).view(3, 1, 1, 1) * noise).clamp(0, 1)


def as_arrays(images):
    return [image.permute(1, 2, 0).numpy() for image in images]


def test_psnr_of_each_image_equals_scikit_image(pair):
    expected = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(*map(as_arrays, pair), strict=True)]

    np.testing.assert_allclose(psnr(*pair), expected, atol=1e-4)


def test_psnr_of_equal_images_is_infinite(pair):
    assert psnr(pair[0], pair[0]).isinf().all()


@pytest.mark.parametrize(
    ("values", "mean"),
    [([20.0, float("inf"), 30.0], 25.0), ([float("inf")] * 2, float("inf")), ([20.0, float("nan")], float("nan"))],
)
def test_equal_images_do_not_make_the_mean_of_all_infinite(values, mean):
    assert mean_without_infinite(torch.tensor(values)) == pytest.approx(mean, nan_ok=True)


def test_ssim_equals_scikit_image_over_the_valid_region(pair):
    expected = [
        structural_similarity(
            a, b, channel_axis=2, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for a, b in zip(*map(as_arrays, pair), strict=True)
    ]

    np.testing.assert_allclose(ssim(*pair), expected, atol=1e-4)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_images_of_different_shapes_are_refused(metric):
    with pytest.raises(ValueError, match=r"shapes differ: \[1, 3, 16, 16\] and \[1, 3, 16, 17\]"):
        metric(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17))
