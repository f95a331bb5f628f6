"""The FID Inception: the TensorFlow network of 2015-12-05 whose features published FIDs compare.

Axes: b images, c channels, h w pixels.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.inception import Inception3

from tcae_cli.errors import WeightsError
from tcae_cli.features.published import FILES
from tcae_cli.features.weights import find_cached, weights_path

NAME = "inception"  # in --weights
_IMAGE_SIZE = 299  # pixels, square
_NUM_CLASSES = 1008

_AVERAGED = ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7b")
_MAXIMAL = "Mixed_7c"


class InceptionFeatures(nn.Module):
    """Images [b, 3, h, w], uint8, to features [b, 2048], float32: the last average pool's, of images made 299 px.

    They are resized as TensorFlow 1 did. Source: Heusel et al. (arXiv:1706.08500); agrees with "inception-v3-compat" of
    github.com/toshas/torch-fidelity.
    """

    width = 2048  # of the features

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """tensors: the 566 of the published file. Raises RuntimeError for any others."""
        super().__init__()
        self.network = Inception3(num_classes=_NUM_CLASSES, aux_logits=False, init_weights=False)
        self.network.load_state_dict(tensors)
        self._classes, self.network.fc = self.network.fc, nn.Identity()
        # torchvision's network pools otherwise in a block's last branch: its averages include the zeros of the padding.
        average = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
        for name in _AVERAGED:
            self.network.get_submodule(name).register_forward_hook(partial(_pool_anew, average))
        maximum = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
        self.network.get_submodule(_MAXIMAL).register_forward_hook(partial(_pool_anew, maximum))
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        resized = resize_as_tensorflow_1(images.float(), _IMAGE_SIZE)
        features: Tensor = self.network((resized - 128) / 128)
        return features

    def logits(self, features: Tensor) -> Tensor:
        """Return logits [b, 1008] of features [b, 2048], without the classes' bias, as the Inception Score takes them.

        Source: github.com/openai/improved-gan, inception_score; agrees with "logits_unbiased" of
        github.com/toshas/torch-fidelity.
        """
        return F.linear(features, self._classes.weight)


def find_inception(weights: Mapping[str, Path]) -> Path | None:
    """Return the file of `--weights inception=PATH` or the one in torch's hub cache; None if there is neither."""
    if NAME in weights:
        return weights[NAME]
    return find_cached(FILES[NAME])


def load_inception(weights: Path | None = None) -> InceptionFeatures:
    """Load the frozen network with the published weights, from `weights` or from torch's hub cache.

    Raises WeightsError, naming the file and the option, if it can neither be found nor fetched, or is another file.
    """
    path = weights_path(NAME, weights, instead="omit the metrics that need it")
    published = FILES[NAME]
    assert published.sha256
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != published.sha256:
        raise WeightsError(
            f"{path} is not the FID Inception (sha256 {found[:8]}, published {published.sha256[:8]}); "
            f"get {published.url} and put it there, or pass --weights {NAME}=PATH"
        )
    return InceptionFeatures(torch.load(path, map_location="cpu", weights_only=True))


def resize_as_tensorflow_1(images: Tensor, size: int) -> Tensor:
    """Return images [b, c, size, size], interpolated bilinearly without half-pixel centres and without antialiasing.

    images: [b, c, h, w], float. Source: tf.image.resize_bilinear of TensorFlow 1, align_corners=False.
    """
    for axis in (3, 2):  # TensorFlow's order, and its formula: rounding is the same to the last bit
        length = images.shape[axis]
        places = torch.arange(size, device=images.device) * (length / size)
        before = places.long()
        after = (before + 1).clamp_max(length - 1)
        share = (places - before).view(-1, *[1] * (3 - axis))
        start = images.index_select(axis, before)
        images = start + (images.index_select(axis, after) - start) * share
    return images


def _pool_anew(pool: Callable[[Tensor], Tensor], block: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """Return a block's output with the channels of its last branch computed after another pooling."""
    branch: Tensor = block.get_submodule("branch_pool")(pool(inputs[0]))
    return torch.cat([output[:, : -branch.shape[1]], branch], dim=1)
