"""Exports of a store that holds a posterior: what trainers' loaders draw of it, and what each format says it holds."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tcae_cli.exports.registry import FORMATS
from tcae_cli.store.reader import LatentStore

from ..small_diffusers import save_kl
from .conftest import files_of
from .test_moments import read_as_edm2

NUM_DRAWS = 300
ROWS = [row for row in range(24) if row != 3]


@pytest.fixture(scope="module", params=["float16", "int8"])
def posterior(request, captioned, encode_small, tmp_path_factory) -> LatentStore:
    """Photographs in classes, mirrored too, one of them broken, by SD's autoencoder."""
    folder = tmp_path_factory.mktemp(request.param)
    save_kl(folder / "model")
    options = {"model": f"diffusers:{folder / 'model'}", "sizes": (32,), "flip": True, "posterior": True}
    return encode_small(captioned, folder / "store.zarr", dtype=request.param, **options)


def moments_of(store: LatentStore, view: str = "latents") -> tuple[np.ndarray, np.ndarray]:
    mean = LatentStore(store.folder.uri, view)
    return tuple(each.latents(ROWS).astype(np.float32) for each in (mean, mean.deviations()))


def sample_posterior(moments, latents_scale=1.0, latents_bias=0.0):
    """As train.py of REPA draws: https://github.com/sihyun-yu/REPA."""
    mean, std = torch.chunk(moments, 2, dim=1)
    return (mean + std * torch.randn_like(mean)) * latents_scale + latents_bias


def test_repas_loader_draws_from_the_posterior(export, posterior):
    done = export("out", "repa", of=posterior)
    moments, labels, _ = read_as_edm2(done.target / "vae-sd")
    torch.manual_seed(0)
    draws = torch.stack([sample_posterior(torch.from_numpy(moments)) for _ in range(NUM_DRAWS)]).numpy()

    mean, std = moments_of(posterior)
    assert labels.tolist() == posterior.labels()[ROWS].tolist() and (std > 0).mean() > 0.99
    assert (np.abs(draws.mean(0) - mean) <= 5 * std / np.sqrt(NUM_DRAWS) + 1e-6).all()
    assert (np.abs(draws.var(0, ddof=1) - std**2) <= 5 * std**2 * np.sqrt(2 / (NUM_DRAWS - 1)) + 1e-6).all()
    assert done.report.notes[-1] == "the deviations are those of the posterior, from which REPA draws in every epoch"

    # Scaled as the note says, they have deviation 1 over the store.
    statistics = json.loads((done.target / "tcae_export.json").read_bytes())["statistics"]
    of_channel = {name: torch.tensor(statistics[f"channel_{name}"]).view(-1, 1, 1) for name in ("mean", "std")}
    scale, bias = 1 / of_channel["std"], -of_channel["mean"] / of_channel["std"]
    scaled = torch.cat([sample_posterior(torch.from_numpy(moments), scale, bias) for _ in range(20)])
    torch.testing.assert_close(scaled.std((0, 2, 3)).float(), torch.ones(4), atol=0.02, rtol=0)


@pytest.mark.parametrize("target", ["out", "out.zip"])
def test_edm2_reads_mean_and_deviation(export, posterior, target):
    done = export(target, "edm2", of=posterior)
    moments, _, _ = read_as_edm2(done.target)
    assert np.array_equal(moments, np.concatenate(moments_of(posterior), axis=1))
    assert done.report.notes[-1] == "the deviations are those of the posterior, from which EDM2 draws in every epoch"


@pytest.mark.parametrize(("export_format", "trainer"), [("edm2", "EDM2"), ("repa", "REPA")])
def test_that_deviations_are_zero_is_said(export, export_format, trainer):
    assert export("out", export_format).report.notes[-1] == (
        f"the deviations are zero, since the store holds none, so {trainer} draws the same latents in every epoch; "
        f"encode with --posterior where the autoencoder has one"
    )


def test_lightningdit_holds_one_draw_of_each_view_and_says_so(export, posterior):
    done = export("out", "lightningdit", of=posterior)
    pieces = [load_file(path) for path in sorted(done.target.glob("*.safetensors"))]
    noise = {}
    for view in ("latents", "latents_flip"):
        mean, std = moments_of(posterior, view)
        drawn = np.concatenate([piece[view] for piece in pieces])
        noise[view] = ((drawn - mean) / np.where(std > 0, std, np.inf)).ravel()
        error = 1 / np.sqrt(noise[view].size)
        assert abs(noise[view].mean()) < 5 * error and abs(noise[view].var() - 1) < 5 * np.sqrt(2) * error + 0.01
    assert abs(np.corrcoef(*noise.values())[0, 1]) < 5 * error
    assert done.report.notes == [
        "latents are drawn from the posterior, once for each image and each mirrored image, as LightningDiT's own "
        "extraction draws them"
    ]
    assert json.loads((done.target / "tcae_export.json").read_bytes())["posterior"] == "a draw"

    before = files_of(done.target)
    first = min(done.target.glob("*.safetensors"))
    first.unlink()
    export("out", "lightningdit", of=posterior)
    assert files_of(done.target) == before


def test_lightningdit_says_that_it_holds_the_mode(export):
    done = export("out", "lightningdit")
    assert done.report.notes == ["latents are the mode, since the store holds no posterior"]
    assert "posterior" not in json.loads((done.target / "tcae_export.json").read_bytes())


def test_other_formats_hold_the_mean_and_say_so(export, posterior):
    for name in ("dc-ae", "webdataset", "mds", "npy"):
        assert FORMATS[name].of_posterior == "mean"
    done = export("out", "npy", of=posterior)
    assert np.array_equal(np.load(done.target / "latents.npy"), posterior.latents(ROWS))
    assert done.report.notes == ["values are the means of the store's posterior; edm2 and repa hold its deviations too"]
    assert json.loads((done.target / "tcae_export.json").read_bytes())["posterior"] == "mean"
