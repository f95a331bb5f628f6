"""The ablation's images, kept on a device, and the views of training drawn there: a GPU need not wait for a CPU.

Views have the distributions of those that `tcae train` draws (tcae_cli/training/views), with three simplifications:
images are square crops of the model's size from the start, crops are resized without antialiasing, which no crop of
these sizes needs much, and colours change in a fixed order.

Axes: b images of a batch, k images, s views of each, h w pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from tcae_cli.images.loader import load_readable
from tcae_cli.images.transform import Transform
from tcae_cli.recipe.schema import Recipe
from tcae_cli.sources.source import Source
from tcae_cli.training.views import augmentation as of_package
from tcae_cli.training.views.batches import epoch_order
from tcae_cli.training.views.crops import TrainingBatch
from tcae_cli.training.views.masks import draw_mask

_READ_TOGETHER = 1024  # images
_KERNEL_REACH = 6  # pixels, at which the blur's kernel ends: three of the largest radius


def load_images(source: Source, size: int, device: torch.device) -> Tensor:
    """Return every readable image of a source as a centre crop, [n, 3, size, size], uint8, on the device."""
    rows = range(len(source))
    parts = (rows[start : start + _READ_TOGETHER] for start in range(0, len(rows), _READ_TOGETHER))
    return torch.cat([load_readable(source, part, Transform.square(size, "torch"))[0] for part in parts]).to(device)


@dataclass(frozen=True)
class ViewsOnDevice:
    """Batches of views of images on a device; a step's depend on the recipe's seed and its number alone."""

    images: Tensor  # [n, 3, size, size], uint8
    recipe: Recipe

    def __getitem__(self, step: int) -> TrainingBatch:
        """Return the batch of a step, counted from 0."""
        train, spec = self.recipe.train, self.recipe.loss.self_distillation
        samples = range(step * train.batch_size, (step + 1) * train.batch_size)
        places = (divmod(sample, len(self.images)) for sample in samples)
        rows = [int(epoch_order(len(self.images), train.seed, epoch)[place]) for epoch, place in places]
        pixels = self.images[torch.tensor(rows, device=self.images.device)].float()
        random = Generator(pixels.device).manual_seed(1_000_003 * train.seed + step)
        clean = self._clean(pixels, random)
        if spec is None:
            return TrainingBatch(torch.tensor(samples), clean, None, None, None)

        kinds = (of_package.FIRST_GLOBAL, of_package.SECOND_GLOBAL)
        global_crops = [
            distort(crop(pixels, spec.global_size, spec.global_scale, random), kind, random) for kind in kinds
        ]
        local_crops = [
            distort(crop(pixels, spec.local_size, spec.local_scale, random), of_package.LOCAL, random)
            for _ in range(spec.num_local_crops)
        ]
        grid = spec.global_size // (2 * self.recipe.model.patch_size)
        for_masks = np.random.default_rng((train.seed, step))
        masks = torch.stack([draw_mask(grid, spec, for_masks) for _ in range(2 * len(samples))])
        return TrainingBatch(
            samples=torch.tensor(samples),
            images=clean,
            global_crops=torch.stack(global_crops, dim=1),
            local_crops=torch.stack(local_crops, dim=1) if local_crops else None,
            masks=masks.unflatten(0, (len(samples), 2)),
        )

    def _clean(self, pixels: Tensor, random: Generator) -> Tensor:
        """Return views to be reconstructed: enlarged as the recipe says, random crop, random flip."""
        size, data = pixels.shape[-1], self.recipe.data
        lowest, highest = (max(size, side) for side in (data.resize_min, data.resize_max))
        short_side = lowest + (highest - lowest) * torch.rand(len(pixels), generator=random, device=pixels.device)
        share = (size / short_side)[:, None].expand(-1, 2)
        return to_bytes(cut(pixels, size, share, data.flip, random))


def crop(pixels: Tensor, size: int, scale: tuple[float, float], random: Generator) -> Tensor:
    """Return a random box of each image [b, 3, h, w], resized and perhaps flipped: [b, 3, size, size].

    A box's area is a share within `scale`, and its aspect is 3:4 to 4:3, as far as it fits into the image.
    """
    area, turn = torch.rand(2, len(pixels), generator=random, device=pixels.device)
    area = scale[0] + (scale[1] - scale[0]) * area
    aspect = of_package.LARGEST_ASPECT ** (2 * turn - 1)
    share = torch.stack([(area / aspect).sqrt(), (area * aspect).sqrt()], dim=1).clamp(max=1)
    return cut(pixels, size, share, 0.5, random)


def cut(pixels: Tensor, size: int, share: Tensor, flip: float, random: Generator) -> Tensor:
    """Return a box at a random place of each image [b, 3, h, w], bicubic: [b, 3, size, size].

    share: [b, 2], the box's height and width as a share of the image's. flip: the probability to mirror it.
    """
    draws = torch.rand(3, len(pixels), generator=random, device=pixels.device)
    y, x = ((2 * draw - 1) * (1 - side) for draw, side in zip(draws[:2], share.unbind(1), strict=True))
    height, width = share.unbind(1)
    mirrored = torch.where(draws[2] < flip, -1.0, 1.0)
    zero = torch.zeros_like(x)
    affine = torch.stack([torch.stack([width * mirrored, zero, x], 1), torch.stack([zero, height, y], 1)], 1)
    grid = F.affine_grid(affine, [len(pixels), 3, size, size], align_corners=False)
    return F.grid_sample(pixels, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(0, 255)


def distort(pixels: Tensor, kind: of_package.Distortion, random: Generator) -> Tensor:
    """Return crops with random colours, some grey, blurred or solarised: [b, 3, h, w], float in, uint8 out."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(pixels), 1, 1, 1, generator=random, device=pixels.device)

    def some(share: float) -> Tensor:
        return uniform(0, 1) < share

    jittered = pixels * uniform(1 - of_package.BRIGHTNESS, 1 + of_package.BRIGHTNESS)
    jittered = jittered.clamp(0, 255)
    mean = grey(jittered).mean(dim=(1, 2, 3), keepdim=True)
    jittered = mean.lerp(jittered, uniform(1 - of_package.CONTRAST, 1 + of_package.CONTRAST)).clamp(0, 255)
    saturation = uniform(1 - of_package.SATURATION, 1 + of_package.SATURATION)
    jittered = grey(jittered).lerp(jittered, saturation).clamp(0, 255)
    jittered = shift_hue(jittered, uniform(-of_package.HUE, of_package.HUE))
    pixels = torch.where(some(of_package.JITTER_SHARE), jittered, pixels)
    pixels = torch.where(some(of_package.GREY_SHARE), grey(pixels), pixels)
    pixels = torch.where(some(kind.blur), blur(pixels, uniform(*of_package.BLUR_RADIUS)), pixels)
    rounded = to_bytes(pixels)
    return torch.where(some(kind.solarise), of_package.solarise(rounded), rounded)


def grey(pixels: Tensor) -> Tensor:
    """Return luma, [b, 1, h, w]."""
    weights = torch.tensor(of_package.LUMA, device=pixels.device)
    return (pixels * weights[:, None, None]).sum(dim=1, keepdim=True)


def shift_hue(pixels: Tensor, turn: Tensor) -> Tensor:
    """Rotate hues by a share `turn` of the circle, [b, 1, 1, 1]; value and saturation of HSV stay."""
    red, green, blue = pixels.split(1, dim=1)
    value = pixels.amax(1, keepdim=True)
    chroma = value - pixels.amin(1, keepdim=True)
    per_chroma = 1 / chroma.clamp(min=1e-6)  # a grey pixel has no hue, so any is right
    below_red = torch.where(value == green, (blue - red) * per_chroma + 2, (red - green) * per_chroma + 4)
    hue = torch.where(value == red, (green - blue) * per_chroma, below_red)
    # Back to RGB without branches: a channel lies below the value by a trapezoid of its distance in hue, in sixths.
    places = torch.tensor([5.0, 3.0, 1.0], device=pixels.device).view(3, 1, 1)
    distance = (hue + places + 6 * turn) % 6
    return value - chroma * (2 - (distance - 2).abs()).clamp(0, 1)


def blur(pixels: Tensor, radius: Tensor) -> Tensor:
    """Convolve each image with a Gaussian of its own deviation, [b, 1, 1, 1], in pixels."""
    places = torch.arange(-_KERNEL_REACH, _KERNEL_REACH + 1, device=pixels.device)
    kernel = (-0.5 * (places / radius.view(-1, 1)) ** 2).exp()
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)
    planes = F.pad(pixels, (_KERNEL_REACH,) * 4, mode="replicate").flatten(0, 1)[None]
    planes = F.conv2d(planes, kernel[:, None, None], groups=len(kernel))
    planes = F.conv2d(planes, kernel[:, None, :, None], groups=len(kernel))
    return planes.view_as(pixels)


def to_bytes(pixels: Tensor) -> Tensor:
    """Return rounded pixels, uint8."""
    return (pixels + 0.5).to(torch.uint8)
