"""The FID Inception's structure and resize, with random weights: the published ones are not at hand in tests."""

import hashlib
import io
from pathlib import Path

import pytest
import torch
from torchvision.models.inception import Inception3

from tcae_cli.errors import WeightsError
from tcae_cli.features import inception
from tcae_cli.features.inception import InceptionFeatures, find_inception, load_inception, resize_as_tensorflow_1

PUBLISHED = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """Under the names of the published file, of a size that lets features through."""
    generator = torch.Generator().manual_seed(0)
    tensors = Inception3(num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    for name, value in tensors.items():
        if name.endswith("conv.weight"):
            tensors[name] = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
        elif name.endswith(("running_var", "bn.weight")):
            tensors[name] = 0.5 + torch.rand(value.shape, generator=generator)
        elif value.is_floating_point():
            tensors[name] = 0.1 * torch.randn(value.shape, generator=generator)
    return tensors


@pytest.fixture
def file(tensors, tmp_path) -> Path:
    torch.save(tensors, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.fixture
def published(file, monkeypatch) -> Path:
    """A file that is taken for the published one."""
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    return file


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of torch's hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def images(height, width):
    generator = torch.Generator().manual_seed(height)
    return torch.randint(256, (2, 3, height, width), generator=generator, dtype=torch.uint8)


# What torch-fidelity 0.4.0 gives for these weights and images: mean, deviation, and some of the first image.
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), [2.3398, 3.2752, 1.5197, 4.0773, 9.1472, 1.5258]),
        ((256, 256), [2.4367, 3.4083, 1.5373, 4.3746, 10.0076, 1.6605]),
        ((72, 320), [2.5204, 3.5258, 1.5728, 4.5261, 10.2364, 1.6535]),
    ],
)
def test_features_of_random_weights_are_those_of_torch_fidelity(tensors, size, expected):
    features = InceptionFeatures(tensors)(images(*size))

    assert features.shape == (2, 2048) and features.dtype == torch.float32
    found = torch.stack([features.mean(), features.std(), *features[0, 4:8]])
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-3, atol=1e-4)


def test_torch_fidelity_where_it_is_installed_gives_the_same_features(tensors):
    torch_fidelity = pytest.importorskip("torch_fidelity")
    weights = io.BytesIO()
    torch.save(tensors, weights)
    weights.seek(0)
    theirs = torch_fidelity.FeatureExtractorInceptionV3("inception", ["2048"], weights)

    torch.testing.assert_close(InceptionFeatures(tensors)(images(80, 64)), theirs(images(80, 64))[0])


def test_the_published_files_566_tensors_are_wanted(tensors):
    assert len(tensors) == 566

    with pytest.raises(RuntimeError, match=r"fc\.bias"):
        InceptionFeatures({name: value for name, value in tensors.items() if name != "fc.bias"})


@pytest.mark.parametrize("length", [64, 256, 299, 512])
def test_a_ramp_is_resized_to_its_values_at_size_over_length_and_no_half_pixel(length):
    ramp = torch.arange(float(length)).expand(1, 1, length, length)
    places = torch.arange(299.0) * length / 299

    resized = resize_as_tensorflow_1(ramp, 299)

    torch.testing.assert_close(resized[0, 0, 7], places.clamp_max(length - 1), rtol=0, atol=1e-3)
    torch.testing.assert_close(resize_as_tensorflow_1(ramp.mT, 299), resized.mT)


def test_a_smaller_image_is_made_of_single_pixels_without_antialiasing():
    image = torch.rand(1, 3, 12, 20, generator=torch.Generator().manual_seed(0))

    torch.testing.assert_close(resize_as_tensorflow_1(image, 4), image[:, :, ::3, ::5])


def test_weights_come_from_the_path_given(tensors, published):
    network = load_inception(published)

    assert torch.equal(network(images(64, 64)), InceptionFeatures(tensors)(images(64, 64)))
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("name", ["pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"])
def test_weights_are_found_in_the_cache_under_either_name(cache, published, name):
    assert find_inception({}) is None
    (cache / name).symlink_to(published)

    assert find_inception({}) == cache / name
    assert isinstance(load_inception(), InceptionFeatures)


def test_the_path_given_goes_before_the_cache_even_if_nothing_is_there(cache, published, tmp_path):
    (cache / "pt_inception-2015-12-05-6726825d.pth").symlink_to(published)
    nowhere = tmp_path / "nowhere.pth"

    assert find_inception({"inception": nowhere}) == nowhere
    with pytest.raises(WeightsError, match=r"nowhere\.pth does not exist"):
        load_inception(nowhere)


def test_missing_weights_are_named_with_the_ways_to_give_them(cache):
    with pytest.raises(WeightsError) as refused:
        load_inception()

    assert str(refused.value) == (
        f"rFID needs the FID Inception, and {cache}/pt_inception-2015-12-05-6726825d.pth does not exist; "
        f"get {PUBLISHED} and put it there, or pass --weights inception=PATH"
    )


def test_another_file_is_refused_before_it_is_read(tmp_path):
    other = tmp_path / "inception_v3_google.pth"
    other.write_bytes(b"other")

    with pytest.raises(WeightsError) as refused:
        load_inception(other)
    assert str(refused.value) == (
        f"{other} is not the FID Inception (sha256 {hashlib.sha256(b'other').hexdigest()[:8]}, published 6726825d); "
        f"get {PUBLISHED} and put it there, or pass --weights inception=PATH"
    )
