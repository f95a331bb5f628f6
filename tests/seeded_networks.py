"""`tcae` with a small seeded network where the FID Inception would be, for processes of their own: figures compare."""

import torch
from torch import Tensor, nn

import tcae_cli.cli
from tcae_cli.evaluation.networks import NETWORKS


class SeededInception(nn.Module):
    """64 features and 1,008 logits of uint8 images, of random weights; counts the images it has seen."""

    width = 64

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("kernel", torch.randn(64, 3, 4, 4, generator=generator) / 7)
        self.register_buffer("spread", torch.randn(64 * 16, self.width, generator=generator) / 8)
        self.register_buffer("classes", torch.randn(self.width, 1008, generator=generator) / 10)
        self.num_images = 0

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        self.num_images += len(images)
        x = nn.functional.conv2d(images.float() / 128 - 1, self.kernel, stride=4).relu()
        return nn.functional.adaptive_avg_pool2d(x, 4).flatten(1) @ self.spread

    def logits(self, features: Tensor) -> Tensor:
        return features @ self.classes


if __name__ == "__main__":
    NETWORKS.add("inception", lambda _path: SeededInception())
    tcae_cli.cli.main()
