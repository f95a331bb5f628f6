"""Every family of diffusers' autoencoders: a store is encoded, resumed, decoded and verified with a small model."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from tcae_cli.autoencoders.by_name import load_autoencoder, read_card
from tcae_cli.errors import NotFoundError, StoreError, UsageError
from tcae_cli.evaluation.metrics.cost import counted_cost
from tcae_cli.images.transform import to_float, to_uint8
from tcae_cli.jobs.decode import decode_store, read_originals
from tcae_cli.jobs.export import export_store
from tcae_cli.jobs.verify import verify_store
from tcae_cli.reports.decode import DecodeRequest
from tcae_cli.reports.export import ExportRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.store import VerifyRequest
from tcae_cli.store.dataset import LatentDataset
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.stream import LatentStream

from ..pipelines_of_diffusers import PIPELINES
from ..small_diffusers import FAMILIES, save_family

SIZE = 32
OF_ONE_FRAME = {"qwen-image", "wan2.1", "wan2.2", "hunyuan-video", "hunyuan-video1.5", "ltx", "ltx0.9.1", "cosmos"} | {
    "mochi",
    "cogvideox",
}
WITHOUT_POSTERIOR = {"dc", "tiny", "vq", "rae", "cosmos"}


@pytest.fixture(scope="module", params=FAMILIES)
def made(request, photos, encode, tmp_path_factory):
    """A family, its model, its name, and a store of 24 photographs that a second command has resumed.

    It holds deviations where the family has a posterior.
    """
    folder = tmp_path_factory.mktemp(request.param)
    model = save_family(request.param, folder / "model")
    name = f"diffusers:{folder / 'model'}"
    options = {"model": name, "sizes": (SIZE,), "dtype": "float32"}
    options["posterior"] = request.param not in WITHOUT_POSTERIOR
    assert encode(photos, folder / "store.zarr", num_parts=2, **options).num_encoded_now == 16
    assert encode(photos, folder / "store.zarr", **options).num_encoded_now == 8
    return request.param, model, name, folder / "store.zarr"


@torch.no_grad()
def encoded_by(family: str, model, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return what the model itself makes of images, [b, 3, h, w], uint8, and with a posterior its deviations."""
    images = to_float(pixels)
    if family in OF_ONE_FRAME:
        images = images[:, :, None]
    if family == "hunyuan-video1.5":  # diffusers' code fails on a batch of them
        model.enable_slicing()
    found = model.encode((images + 1) / 2 if family == "rae" else images)
    latents = found.latent_dist.mode() if "latent_dist" in found else found[0]
    std = None if family in WITHOUT_POSTERIOR else found.latent_dist.std
    return (latents[:, :, 0], std if std is None else std[:, :, 0]) if family in OF_ONE_FRAME else (latents, std)


@torch.no_grad()
def decoded_by(family: str, model, latents: torch.Tensor) -> torch.Tensor:
    if family in OF_ONE_FRAME:
        times = (torch.zeros(len(latents)),) if family == "ltx0.9.1" else ()
        return model.decode(latents[:, :, None], *times).sample[:, :, 0]
    images = model.decode(latents).sample
    return images * 2 - 1 if family == "rae" else images


def pixels_of(store: LatentStore) -> torch.Tensor:
    originals = read_originals(store, list(range(len(store))))
    return torch.from_numpy(np.stack([originals[row] for row in range(len(store))])).permute(0, 3, 1, 2)


def test_a_store_holds_the_latents_that_the_model_itself_makes(made):
    family, model, name, path = made
    store, card = LatentStore(path), read_card(name)
    latents = store.latents(range(len(store)))

    expected = encoded_by(family, model, pixels_of(store))[0].numpy()
    assert latents.shape == (24, card.latent_channels, SIZE // card.downsampling, SIZE // card.downsampling)
    assert latents.std() > 0
    np.testing.assert_allclose(latents, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_a_store_decodes_to_the_images_that_the_model_itself_makes(made, tmp_path):
    family, model, _, path = made
    decode_store(DecodeRequest(store=str(path), out_dir=tmp_path, rows="0:4", device="cpu"), Silent())

    found = np.stack([np.asarray(Image.open(each)) for each in sorted(tmp_path.rglob("*.png"))])
    latents = torch.from_numpy(LatentStore(path).latents(range(4)))
    expected = to_uint8(decoded_by(family, model, latents)).permute(0, 2, 3, 1).numpy()
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_dataset_gives_what_the_models_pipeline_gives_its_transformer_and_the_way_back(made):
    family, model, _, path = made
    if family == "kvae":
        with pytest.raises(StoreError, match=r"does not record what the generators of diffusers:.* take, because it"):
            LatentDataset(path, normalise="model")
        return
    dataset, raw = LatentDataset(path, normalise="model"), torch.from_numpy(LatentStore(path).latents(range(24)))
    given = dataset[range(24)]["latents"]

    assert given.shape == (24, *dataset.sample_shape)
    torch.testing.assert_close(given, PIPELINES[family](model, raw), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dataset.denormalise(given), raw, rtol=1e-5, atol=1e-5)


def test_a_dataset_draws_from_the_posterior_as_the_models_pipeline_scales_it(made):
    family, model, name, path = made
    store, card = LatentStore(path), read_card(name)
    assert card.has_posterior == store.spec.latent.posterior == (family not in WITHOUT_POSTERIOR)
    if family in WITHOUT_POSTERIOR:
        with pytest.raises(UsageError, match=r"gives latents without any; omit --posterior, or name a model with"):
            card.refuse_without_posterior()
        with pytest.raises(UsageError, match="holds no deviations of its latents; encode into another store with"):
            LatentDataset(path, sample_posterior=True)
        return
    mean, std = (torch.from_numpy(each.latents(range(24))) for each in (store, store.deviations()))
    expected = encoded_by(family, model, pixels_of(store))[1]
    torch.testing.assert_close(std, expected, rtol=1e-3, atol=1e-4 * expected.max().item())

    dataset = LatentDataset(path, normalise="none" if family == "kvae" else "model", sample_posterior=True)
    torch.manual_seed(0)
    drawn = torch.stack([dataset[range(24)]["latents"] for _ in range(40)])
    noise = (dataset.denormalise(drawn) - mean) / std
    errors = 5 / noise.numel() ** 0.5
    assert abs(noise.mean()) < errors and abs(noise.var() - 1) < 2**0.5 * errors
    assert (noise.mean(0).abs() < 7 / 40**0.5).all()


def test_an_export_at_the_models_scale_holds_the_same(made, tmp_path):
    family, _, _, path = made
    if family == "kvae":
        return
    request = ExportRequest(store=str(path), target=tmp_path / "out", format="dc-ae", scale="model")
    report = export_store(request, Silent())
    found = np.stack([np.load(each) for each in sorted((tmp_path / "out").rglob("*.npy"))])
    np.testing.assert_array_equal(found, LatentDataset(path, normalise="model")[range(24)]["latents"])
    assert report.scale == "model" and "leave the trainer's scaling at 1" in report.notes[0]


def test_patches_of_int8_latents_are_those_of_the_latents(photos, encode, tmp_path):
    save_family("flux2", tmp_path / "model")
    path = tmp_path / "store.zarr"
    encode(photos, path, model=f"diffusers:{tmp_path / 'model'}", sizes=(SIZE,), dtype="int8", flip=True)
    plain, flipped = (
        torch.from_numpy(LatentStore(path, view).latents(range(24))) for view in ("latents", "latents_flip")
    )

    for options in ({}, {"in_memory": True}, {"random_flip": True}):
        dataset = LatentDataset(path, normalise="model", **options)
        raw = dataset.denormalise(dataset[range(24)]["latents"])
        is_plain, is_flipped = (
            (raw - each).abs().amax(dim=(1, 2, 3)) < 1e-5 * each.abs().max() for each in (plain, flipped)
        )
        assert (is_plain | is_flipped).all() and is_flipped.any() == ("random_flip" in options)
    stream = LatentStream(path, batch_size=8, normalise="model")
    assert next(iter(stream))["latents"].shape == (8, *LatentDataset(path, normalise="model").sample_shape)


def test_the_cost_of_the_encoder_is_counted_without_computing(made):
    _, model, name, _ = made
    figures = counted_cost(load_autoencoder(name), read_card(name), SIZE)
    assert 0 < figures["encoder-parameters"] < sum(each.numel() for each in model.parameters())
    assert figures["encode-macs"] > 0 and figures["decode-macs"] > 0


def test_a_store_is_sound(made):
    picture = made[3].with_name("picture.png")
    report = verify_store(VerifyRequest(store=str(made[3]), num_rows=2, device="cpu", picture=picture), Silent())
    assert (report.num_problems, report.not_checked, len(report.sample)) == (0, [], 2)


def test_a_model_of_video_refuses_what_is_not_one_frame(tmp_path):
    save_family("wan2.1", tmp_path / "wan")
    model = load_autoencoder(f"diffusers:{tmp_path / 'wan'}")
    model.model.decode = lambda video: type("Decoded", (), {"sample": video.repeat(1, 1, 4, 1, 1)})
    with pytest.raises(ValueError, match=r"one frame becomes \[1, 4, 4, 8, 8\]"):
        model.decode(torch.zeros(1, 4, 8, 8))


def test_a_representation_autoencoder_is_of_one_size(photos, encode, tmp_path):
    save_family("rae", tmp_path / "model")
    name = f"diffusers:{tmp_path / 'model'}"
    assert (read_card(name).image_size, read_card(name).downsampling) == (32, 8)
    with pytest.raises(UsageError, match=r"model encodes images of 32 px alone; omit --size 64"):
        encode(photos, tmp_path / "store.zarr", model=name, sizes=(64,))
    with pytest.raises(UsageError, match=r"--buckets gives images many shapes, and diffusers:.*model takes one alone"):
        encode(photos, tmp_path / "store.zarr", model=name, buckets=True)


def test_without_transformers_a_representation_autoencoder_names_the_extra(tmp_path, monkeypatch):
    save_family("rae", tmp_path / "model")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        NotFoundError,
        match=r"is of class AutoencoderRAE, whose encoder needs transformers, which is not installed; "
        r"pip install 'tcae\[rae\]'",
    ):
        read_card(f"diffusers:{tmp_path / 'model'}")
