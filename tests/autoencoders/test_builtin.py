"""The built-in model: what its card says is so, on photographs it has not seen."""

import pytest
import torch

from tcae_cli.autoencoders.by_name import load_autoencoder
from tcae_cli.autoencoders.tcae import BUILTIN, read_header
from tcae_cli.images.loader import load_rows
from tcae_cli.images.samples import write_sample_windows
from tcae_cli.images.transform import Transform, to_float
from tcae_cli.metrics.image import psnr
from tcae_cli.sources.scan import open_source


@pytest.fixture(scope="module")
def windows(tmp_path_factory) -> torch.Tensor:
    folder = tmp_path_factory.mktemp("windows")
    count = write_sample_windows(folder / "photos")
    source = open_source(str(folder / "photos"), folder / "index")
    [images], _, failures = load_rows(source, range(count), Transform.square(256, "torch"))
    assert not failures
    return to_float(images)


def mean_psnr(images: torch.Tensor, decoded: torch.Tensor) -> float:
    return float(psnr((images + 1) / 2, (decoded.clamp(-1, 1) + 1) / 2).mean())


def test_it_is_a_small_staged_model_of_64_latents_of_128_channels():
    header = read_header("tcae-tiny")
    spec = header.spec

    assert (spec.downsampling, spec.latent_channels, spec.staged, spec.image_size) == (32, 128, True, 256)
    assert (BUILTIN / "tcae-tiny.safetensors").stat().st_size < 16e6
    assert header.encoder_hash[:12] in (BUILTIN / "tcae-tiny.md").read_text()


@torch.inference_mode()
def test_its_transformer_is_worth_more_than_the_shortcut_beside_it(windows):
    model = load_autoencoder("tcae-tiny")
    whole = mean_psnr(windows, model(windows))
    shortcut = mean_psnr(windows, model.shortcut_out(model.shortcut_in(windows)))

    assert model.encode(windows[:1]).shape == (1, 128, 8, 8)
    assert whole > 26
    assert whole > shortcut + 0.4
