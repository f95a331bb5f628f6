"""The table of published weights, against what installed packages say of the same files."""

from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import pytest
import timm
import torchmetrics
import torchvision

from tcae_cli.evaluation.networks import NETWORKS
from tcae_cli.features import backbone, dino
from tcae_cli.features.published import FILES
from tcae_cli.recipe.choices import FrozenFeatures, PerceptualNetwork

WEIGHTS = {
    "lpips-vgg": torchvision.models.VGG16_Weights.IMAGENET1K_V1,
    "lpips-alex": torchvision.models.AlexNet_Weights.IMAGENET1K_V1,
    "squeezenet1_1": torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1,
}
OF_TIMM = {**dino.NETWORKS, "dinov2": "vit_large_patch14_dinov2.lvd142m"}


def test_each_network_of_an_option_or_a_recipe_has_a_row():
    wanted = {*NETWORKS, *get_args(PerceptualNetwork), *get_args(FrozenFeatures), *backbone.NETWORKS, *dino.NETWORKS}

    assert wanted == set(FILES) and [file.name for file in FILES.values()] == list(FILES)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_file_of_torchvision_has_its_url_its_rounded_size_and_the_hash_in_its_name(name):
    file, weights = FILES[name], WEIGHTS[name]

    assert file.url == weights.url and Path(file.file).stem.endswith(f"-{file.sha256}") and len(file.sha256) == 8
    assert round(file.size_bytes / 2**20, 3) == weights.meta["_file_size"]


@pytest.mark.parametrize("name", OF_TIMM)
def test_a_file_of_meta_has_the_url_the_licence_and_the_repository_that_timm_names(name):
    file, theirs = FILES[name], timm.models.get_pretrained_cfg(OF_TIMM[name])

    assert (file.url, file.repository, file.licence.lower()) == (theirs.url, theirs.hf_hub_id, theirs.license)


def test_files_are_named_as_torchs_hub_names_them_and_hashes_are_whole_or_the_names():
    for file in FILES.values():
        assert Path(urlsplit(file.url).path).name == file.file and urlsplit(file.url).scheme == "https"
        assert file.sha256 is None or len(file.sha256) == 64 or f"-{file.sha256}." in file.file
        assert file.used_for and file.licence


def test_the_linear_weights_of_lpips_are_shipped():
    folder = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models"

    for name, network in backbone.NETWORKS.items():
        assert bool(network.channel_weights) == bool(FILES[name].shipped)
        assert not network.channel_weights or (folder / network.channel_weights).is_file()
