"""Stores made with diffusers' autoencoders: encoded, told about, decoded, and continued with the same model alone."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from tcae_cli.errors import StoreError
from tcae_cli.images.transform import to_float, to_uint8
from tcae_cli.jobs.decode import decode_store, read_originals
from tcae_cli.jobs.info import describe_store
from tcae_cli.jobs.verify import verify_store
from tcae_cli.reports.decode import DecodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.store import InfoRequest, VerifyRequest
from tcae_cli.store.reader import LatentStore
from tcae_cli.terminal.store_tables import show_info

from ..heard import Heard
from ..small_diffusers import change, save_dc, save_kl
from ..store_contents import attributes_of, refused

SIZES = (64,)


@pytest.fixture(scope="module", params=["kl", "dc"])
def made(request, photos, encode, tmp_path_factory):
    """A model, its name, and a float32 store of 24 photographs made with it."""
    folder = tmp_path_factory.mktemp(request.param)
    model = {"kl": save_kl, "dc": save_dc}[request.param](folder / "model")
    name = f"diffusers:{folder / 'model'}"
    encode(photos, folder / "store.zarr", model=name, sizes=SIZES, dtype="float32")
    return model, name, folder / "store.zarr"


def latents_of(model, pixels: torch.Tensor) -> torch.Tensor:
    found = model.encode(to_float(pixels))
    return found.latent_dist.mode() if "latent_dist" in found else found.latent


def decoded_files(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))]


def test_a_store_decodes_to_what_the_model_itself_makes_of_the_images(made, tmp_path):
    model, _, path = made
    decode_store(DecodeRequest(store=str(path), out_dir=tmp_path, device="cpu"), Silent())

    store = LatentStore(path)
    rows = list(range(len(store)))
    originals = read_originals(store, rows)
    pixels = torch.from_numpy(np.stack([originals[row] for row in rows])).permute(0, 3, 1, 2)
    latents = latents_of(model, pixels)
    expected = to_uint8(model.decode(latents).sample).permute(0, 2, 3, 1).numpy()
    found = np.stack(decoded_files(tmp_path))

    np.testing.assert_allclose(store.latents(rows), latents, rtol=1e-4, atol=1e-5)
    assert np.abs(found.astype(int) - expected).max() <= 1  # batches round otherwise
    assert (found == expected).mean() > 0.99
    assert expected.std(axis=0).max() > 1  # images differ, and so do their rows


def test_scale_and_shift_are_recorded_and_latents_are_raw(made):
    model, name, path = made
    attributes = attributes_of(path)
    spec = attributes["encoder"]["spec"]

    assert (attributes["encoder"]["name"], attributes["encoder"]["recipe"]) == (name, {})
    assert (spec["library"], spec["class"]) == ("diffusers", type(model).__name__)
    assert spec["scaling_factor"] == model.config.scaling_factor != 1
    assert spec.get("shift_factor") == model.config.get("shift_factor")
    assert attributes["scaling"] == "none"
    assert "diffusers" in attributes["tool_versions"]


@pytest.mark.parametrize(
    ("force_upcast", "precision", "said"),
    [
        (True, "fp32", ["is known to overflow in float16, so it is encoded in float32"]),
        (True, "bf16", ["is known to overflow in float16, so it is encoded in bf16, which has the range of float32"]),
        (False, "fp32", []),
        (None, "fp32", []),  # the class's default is no word about the weights
    ],
)
def test_a_model_that_overflows_in_half_precision_is_encoded_in_more_and_this_is_said(
    photos, encode, tmp_path, force_upcast, precision, said
):
    save_kl(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text()) | {"force_upcast": force_upcast}
    if force_upcast is None:
        del config["force_upcast"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    name, progress = f"diffusers:{tmp_path / 'model'}", Heard()

    encode(photos, tmp_path / "store.zarr", progress, model=name, sizes=SIZES, precision=precision)
    assert [each for each in progress.said if "overflow" in each] == [f"{name} {each}" for each in said]
    assert attributes_of(tmp_path / "store.zarr")["compute"]["dtype"] == precision


def test_info_shows_scale_and_shift(made):
    model, _, path = made
    console = Console(file=io.StringIO(), width=200)
    show_info(console, describe_store(InfoRequest(store=str(path)), Silent()))
    words = {"AutoencoderKL": "(latents - 0.1159) x 0.3611", "AutoencoderDC": "latents x 0.41407"}
    assert f"float32, codec zstd; raw, generators take {words[type(model).__name__]}" in console.file.getvalue()


def test_info_says_that_our_own_are_scaled_by_channel(photos, encode, tmp_path):
    encode(photos, tmp_path / "store.zarr")
    console = Console(file=io.StringIO(), width=200)
    show_info(console, describe_store(InfoRequest(store=str(tmp_path / "store.zarr")), Silent()))
    words = "float16, codec zstd; raw, generators take (latents - shift) x scale of each channel"
    assert words in console.file.getvalue()


def test_verify_decodes_a_sample(made, tmp_path):
    _, _, path = made
    request = VerifyRequest(store=str(path), num_rows=3, picture=tmp_path / "picture.png", device="cpu")
    report = verify_store(request, Silent())
    assert (report.num_problems, report.not_checked, len(report.sample)) == (0, [], 3)
    assert report.picture == tmp_path / "picture.png"


def test_verify_says_what_it_cannot_do_without_diffusers(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    report = verify_store(VerifyRequest(store=str(made[2]), device="cpu"), Silent())
    assert report.num_problems == 0
    assert len(report.not_checked) == 1 and "pip install 'tcae[diffusers]'" in report.not_checked[0]


def test_a_model_with_another_encoder_does_not_continue_a_store(made, photos, encode, tmp_path):
    model, name, path = made
    {"AutoencoderKL": save_kl, "AutoencoderDC": save_dc}[type(model).__name__](tmp_path / "other", seed=1)
    said = refused(encode, photos, path, model=f"diffusers:{tmp_path / 'other'}", sizes=SIZES, dtype="float32")
    assert f"({name}), not " in said and "cannot be continued: it was made with encoder" in said
    with pytest.raises(StoreError, match=r"made with encoder \w{12} .*, diffusers:.*other has \w{12}; pass --model"):
        decode_store(
            DecodeRequest(store=str(path), out_dir=tmp_path, model=f"diffusers:{tmp_path / 'other'}"), Silent()
        )


def test_one_with_another_decoder_decodes_and_continues(made, photos, encode, tmp_path):
    model, _, path = made
    other = {"AutoencoderKL": save_kl, "AutoencoderDC": save_dc}[type(model).__name__](tmp_path / "other")
    change(other, "decoder.conv_out.bias")
    other.save_pretrained(tmp_path / "other")
    name = f"diffusers:{tmp_path / 'other'}"

    assert encode(photos, path, model=name, sizes=SIZES, dtype="float32").num_encoded_now == 0
    for folder, decoder in (("first", None), ("second", name)):
        request = DecodeRequest(store=str(path), out_dir=tmp_path / folder, model=decoder, rows="0", device="cpu")
        decode_store(request, Silent())
    first, second = (decoded_files(tmp_path / folder)[0] for folder in ("first", "second"))
    assert second.mean() > first.mean() + 10


def test_int8_is_calibrated_with_the_model(photos, encode, tmp_path):
    save_kl(tmp_path / "model")
    encode(photos, tmp_path / "store.zarr", model=f"diffusers:{tmp_path / 'model'}", dtype="int8")
    quantisation = attributes_of(tmp_path / "store.zarr")["quantisation"]
    assert len(quantisation["scale"]["latents"]) == 4 and 0 < quantisation["relative_rmse"]["latents"] < 0.05


def test_a_relative_folder_is_recorded_as_given_and_found_again(photos, encode, tmp_path, monkeypatch):
    save_kl(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    encode(photos, "out.zarr", model="diffusers:model")
    assert attributes_of("out.zarr")["encoder"]["name"] == "diffusers:model"
    decode_store(DecodeRequest(store="out.zarr", out_dir=Path("images"), rows="0:2", device="cpu"), Silent())
    assert len(decoded_files(tmp_path / "images")) == 2
