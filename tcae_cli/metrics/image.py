"""How close decoded images are to their originals, one figure an image.

Axes: b batch, h w pixels.
"""

from collections.abc import Callable

from torch import Tensor

_BORDER = 5  # half of SSIM's 11-pixel window: positions whose window leaves the image
SSIM_LEAST_SIDE = 2 * _BORDER + 1  # pixels; a smaller image has no position whose window lies in it


def psnr(original: Tensor, decoded: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image, in dB; infinite where the two are equal.

    original, decoded: [b, 3, h, w], float, in [0, 1]. The result is [b], float32.
    Raises ValueError if the shapes differ. Source: averaged over images as in DC-AE (arXiv:2410.10733).
    """
    _check_shapes(original, decoded)
    mse = (original.float() - decoded.float()).square().mean(dim=(1, 2, 3))
    return -10 * mse.log10()


def mean_without_infinite(values: Tensor) -> float:
    """Return the mean of the values that are not infinite, as the PSNR of equal images is; infinite if all are.

    values: [n], float, n at least 1.
    """
    others = values[~values.isinf()]
    return float((others if len(others) else values).double().mean())


def ssim(original: Tensor, decoded: Tensor) -> Tensor:
    """Return the structural similarity of each image: 11-pixel Gaussian of sigma 1.5, valid region, mean of RGB.

    original, decoded: [b, 3, h, w], float, in [0, 1], h and w over 10. The result is [b], float32.
    Raises ValueError if the shapes differ or images are smaller.
    Source: Wang et al. 2004; equals scikit-image with Gaussian weights.
    """
    # Importing torchmetrics takes seconds, which commands that only need the PSNR are spared.
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check_shapes(original, decoded)
    if min(original.shape[2:]) < SSIM_LEAST_SIDE:
        raise ValueError(f"SSIM needs images of {SSIM_LEAST_SIDE} pixels a side, found {list(original.shape[2:])}")
    # torchmetrics averages over a padded border too; the full map lets us keep the valid region alone.
    _mean, similarity = structural_similarity_index_measure(
        decoded.float(), original.float(), sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
    )
    valid: Tensor = similarity[..., _BORDER:-_BORDER, _BORDER:-_BORDER]
    return valid.mean(dim=(1, 2, 3))


def _check_shapes(original: Tensor, decoded: Tensor) -> None:
    if original.shape != decoded.shape:
        raise ValueError(f"shapes differ: {list(original.shape)} and {list(decoded.shape)}")


def metrics_of(size: int) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Return the metrics that images of this side, in pixels, have, by name: those smaller than its window no SSIM."""
    return {"psnr": psnr, "ssim": ssim} if size >= SSIM_LEAST_SIDE else {"psnr": psnr}
