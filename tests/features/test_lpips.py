"""LPIPS against the lpips package, both with one random network: the published ones are not at hand in tests."""

import lpips
import pytest
import torch
import torchvision
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from tcae_cli.errors import WeightsError
from tcae_cli.features.backbone import load_feature_network
from tcae_cli.losses.perceptual import PerceptualDistance


def without_classifier(architecture):
    """Builds a network with random weights and without its classifier, most of its size, which LPIPS does not use."""

    def build(**_weights) -> nn.Module:
        with torch.device("meta"):
            model = architecture(weights=None)
        del model.classifier
        model.to_empty(device="cpu")
        for parameter in model.parameters():
            is_kernel = parameter.ndim == 4
            nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5 if is_kernel else 0.1)
        return model

    return build


@pytest.fixture(autouse=True)
def small_networks(monkeypatch) -> None:
    for name in ("vgg16", "alexnet"):
        monkeypatch.setattr(torchvision.models, name, without_classifier(getattr(torchvision.models, name)))


@pytest.fixture(scope="module")
def pairs(photos) -> tuple[Tensor, Tensor]:
    """4 photographs and blurred ones, in [-1, 1]."""
    originals, blurred = [], []
    for path in sorted(photos.rglob("*.jpg"))[::6]:
        with Image.open(path) as photo:
            originals.append(pil_to_tensor(photo))
            blurred.append(pil_to_tensor(photo.filter(ImageFilter.GaussianBlur(len(blurred) + 1))))
    return torch.stack(originals) / 127.5 - 1, torch.stack(blurred) / 127.5 - 1


@pytest.mark.parametrize("network", ["vgg", "alex"])
def test_the_distance_is_that_of_the_lpips_package(network, pairs, tmp_path):
    torch.manual_seed(0)
    theirs = lpips.LPIPS(net=network, pnet_rand=True, verbose=False)
    # Theirs is in slices, whose layers keep their numbers: slice2.5.weight is features.5.weight.
    tensors = {f"features.{name.split('.', 1)[1]}": tensor for name, tensor in theirs.net.state_dict().items()}
    torch.save(tensors, tmp_path / "weights.pth")

    ours = PerceptualDistance(load_feature_network(f"lpips-{network}", tmp_path / "weights.pth"))
    distances = ours(*pairs)

    assert distances.min() > 0.005 and distances.std() > 0.001
    torch.testing.assert_close(distances, theirs(*pairs).flatten(), rtol=1e-4, atol=0)


def test_missing_weights_are_named_with_what_to_do_instead(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    with pytest.raises(WeightsError) as refused:
        load_feature_network("lpips-alex", instead="omit that metric")
    assert str(refused.value) == (
        f"lpips-alex needs alexnet-owt-7be5be79.pth, which is not in {tmp_path}/hub/checkpoints and could not be "
        "fetched from https://download.pytorch.org/models/alexnet-owt-7be5be79.pth: TCAE_OFFLINE is set; "
        "copy it there from a machine with a network (tcae weights --fetch lpips-alex), "
        "pass --weights lpips-alex=PATH, or omit that metric"
    )
