"""The FID Inception's structure and resize, with random weights: the published ones are not at hand in tests."""

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torch_fidelity
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torchvision.models.inception import Inception3

from tcae_cli.errors import WeightsError
from tcae_cli.features import inception
from tcae_cli.features.inception import InceptionFeatures, find_inception, load_inception, resize_as_tensorflow_1
from tcae_cli.features.published import FILES
from tcae_cli.images.loader import load_rows
from tcae_cli.images.transform import Transform
from tcae_cli.metrics.frechet import FeatureSums, frechet_distance
from tcae_cli.sources.scan import open_source

PUBLISHED = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
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
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(FILES, "inception", replace(FILES["inception"], sha256=sha256))
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


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (72, 320)])
def test_torch_fidelity_gives_the_same_features_and_logits(tensors, file, size):
    theirs = torch_fidelity.FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], file)
    network = InceptionFeatures(tensors)
    features = network(images(*size))

    assert features.shape == (2, 2048) and features.dtype == torch.float32
    torch.testing.assert_close((features, network.logits(features)), theirs(images(*size)))


@dataclass
class Pair:
    """Photographs of one size and blurred ones, uint8, and what torch-fidelity calls their distance."""

    originals: Tensor
    blurred: Tensor
    fid: float


@pytest.fixture(scope="module")
def calibrated(tensors, photos, tmp_path_factory) -> Path:
    """The random network, its batch norms with the statistics of photographs: features that vary from one to another.

    Of the last block's channels one in eight is alive: the others' features are zero, and cost no time in distances.
    """
    folder = tmp_path_factory.mktemp("calibrated")
    write_photos(photos, folder / "photos", size=256)
    features = InceptionFeatures(tensors)
    for module in features.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = 1.0
            module.train()
    features(read(folder / "photos", 256))
    calibrated = tensors | features.network.state_dict()
    for branch in ("1x1", "3x3_2a", "3x3_2b", "3x3dbl_3a", "3x3dbl_3b", "_pool"):
        for name in ("weight", "bias"):
            channels = calibrated[f"Mixed_7c.branch{branch}.bn.{name}"]
            channels[torch.arange(len(channels)) % 8 > 0] = 0
    torch.save(calibrated, folder / "weights.pth")
    return folder / "weights.pth"


@pytest.fixture(scope="module")
def network(calibrated) -> InceptionFeatures:
    return InceptionFeatures(torch.load(calibrated, weights_only=True))


@pytest.fixture(scope="module")
def pair(calibrated, photos, tmp_path_factory, request) -> Pair:
    size, folder = request.param, tmp_path_factory.mktemp("pair")
    write_photos(photos, folder / "originals", size)
    write_photos(photos, folder / "blurred", size, blur=size / 24)
    inputs = {"input1": str(folder / "originals"), "input2": str(folder / "blurred"), "cuda": False, "cache": False}
    weights = {"feature_extractor_weights_path": str(calibrated)}
    # What spares memory starts no workers.
    theirs = torch_fidelity.calculate_metrics(**inputs, **weights, fid=True, save_cpu_ram=True, verbose=False)
    images = [read(folder / name, size) for name in ("originals", "blurred")]
    return Pair(*images, theirs["frechet_inception_distance"])


def write_photos(photos, folder, size, blur=0.0):
    """Three of them, as squares, PNG."""
    folder.mkdir()
    for number, path in enumerate(sorted(photos.rglob("*.jpg"))[::8]):
        with Image.open(path) as photo:
            square = photo.crop((12, 0, 84, 72)).resize((size, size), Image.Resampling.BICUBIC)
            square.filter(ImageFilter.GaussianBlur(blur)).save(folder / f"{number}.png")


def read(folder, size):
    source = open_source(str(folder), folder.with_suffix(".index"))
    [images], _, _ = load_rows(source, range(3), Transform.square(size, "adm"))
    return images


def rfid(network, pair):
    features = network(torch.cat([pair.originals, pair.blurred]))
    originals, blurred = features[:, features.any(dim=0)].chunk(2)
    assert originals.shape == (3, 256)
    return frechet_distance(FeatureSums.of([originals]).gaussian(), FeatureSums.of([blurred]).gaussian())


@pytest.mark.parametrize("pair", [64, 256, 512], indirect=True)
def test_rfid_is_torch_fidelitys_of_the_same_folders(network, pair):
    assert pair.fid > 1
    assert rfid(network, pair) == pytest.approx(pair.fid, rel=1e-6)


@pytest.mark.parametrize("pair", [64, 512], indirect=True)
def test_rfid_is_another_where_images_are_resized_by_half_pixels(network, pair, monkeypatch):
    half_pixels = partial(F.interpolate, mode="bilinear")
    monkeypatch.setattr(inception, "resize_as_tensorflow_1", half_pixels)

    assert rfid(network, pair) != pytest.approx(pair.fid, rel=1e-3)


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


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (72, 512)])
def test_torch_fidelity_resizes_to_the_same_bits(size):
    resized = interpolate_bilinear_2d_like_tensorflow1x(images(*size).float(), size=(299, 299), align_corners=False)

    assert torch.equal(resize_as_tensorflow_1(images(*size).float(), 299), resized)


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
        f"inception needs pt_inception-2015-12-05-6726825d.pth, which is not in {cache} and could not be fetched "
        f"from {PUBLISHED}: TCAE_OFFLINE is set; copy it there from a machine with a network "
        "(tcae weights --fetch inception), pass --weights inception=PATH, or omit the metrics that need it"
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
