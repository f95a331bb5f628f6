"""The numbers in a store: values that do not fit fail their row, and int8 costs what the store says it costs."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import torch
from PIL import Image

from tcae_cli.autoencoders.by_name import load_autoencoder
from tcae_cli.images.transform import to_uint8
from tcae_cli.jobs import quantisation
from tcae_cli.jobs.decode import decode_store, read_originals
from tcae_cli.metrics.image import psnr
from tcae_cli.model.tcae import TCAE
from tcae_cli.reports.decode import DecodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.runtime.device import float32_products
from tcae_cli.store.reader import LatentStore

from ..heard import Heard
from ..store_contents import failures_of, open_plainly

HALVES = "animal/3.jpg"  # row 3


@pytest.fixture
def one_of_halves(photos: Path, tmp_path: Path) -> Path:
    """The photographs; one is black on the left and white on the right."""
    source = shutil.copytree(photos, tmp_path / "photos")
    pixels = np.zeros((72, 96, 3), np.uint8)
    pixels[:, 48:] = 255
    Image.fromarray(pixels).save(source / HALVES, "JPEG", quality=100)
    return source


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "the latents are not finite, in float32 either; exclude the image, or try another --model"),
        (1e6, "the latents are beyond float16; encode into another store with --dtype float32"),
    ],
)
def test_a_row_fails_when_its_mirrored_view_alone_does(one_of_halves, tmp_path, encode, monkeypatch, value, reason):
    encode(one_of_halves, tmp_path / "right.zarr", flip=True)
    honest = TCAE.encode

    def encode_badly(self: TCAE, images: torch.Tensor) -> torch.Tensor:
        left = images[:, :, :, :16].mean((1, 2, 3))
        return torch.where(left[:, None, None, None] > 0.99, value, honest(self, images))

    monkeypatch.setattr(TCAE, "encode", encode_badly)
    encode(one_of_halves, tmp_path / "store.zarr", flip=True)

    assert failures_of(tmp_path / "store.zarr") == [(3, HALVES, "encode", reason)]
    others = [row for row in range(24) if row != 3]
    for view in ("latents", "latents_flip"):
        store, right = (LatentStore(tmp_path / name, view) for name in ("store.zarr", "right.zarr"))
        assert np.isnan(store.latents([3])).all()
        assert np.array_equal(store.latents(others), right.latents(others))


@pytest.fixture
def computed(monkeypatch) -> Iterator[list[tuple[str, bool]]]:
    """Each encode and decode of the model, and whether it is in bf16; none may see TF32, which is on."""
    seen: list[tuple[str, bool]] = []

    def recorded(name: str) -> Callable[[TCAE, torch.Tensor], torch.Tensor]:
        honest = getattr(TCAE, name)

        def record(model: TCAE, values: torch.Tensor) -> torch.Tensor:
            assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
            seen.append((name, torch.is_autocast_enabled("cpu")))
            return honest(model, values)

        return record

    for name in ("encode", "decode"):
        monkeypatch.setattr(TCAE, name, recorded(name))
    with float32_products(torch.device("cuda"), "high"):
        yield seen


def test_float32_is_never_tf32_to_measure_int8_to_encode_or_to_decode(photos, tmp_path, encode, computed):
    encode(photos, tmp_path / "int8.zarr", dtype="int8")
    assert set(computed) == {("encode", False), ("decode", False)}
    computed.clear()
    request = DecodeRequest(store=str(tmp_path / "int8.zarr"), out_dir=tmp_path / "out", rows="0:2", device="cpu")
    decode_store(request, Silent())
    assert computed == [("decode", False)]


def test_what_is_tried_again_in_float32_is_not_in_tf32(photos, tmp_path, encode, computed, monkeypatch):
    recorded = TCAE.encode

    def encode_badly_in_bf16(model: TCAE, images: torch.Tensor) -> torch.Tensor:
        return recorded(model, images) * (float("nan") if torch.is_autocast_enabled("cpu") else 1)

    monkeypatch.setattr(TCAE, "encode", encode_badly_in_bf16)
    assert encode(photos, tmp_path / "bf16.zarr", precision="bf16").num_ok == 24
    assert set(computed) == {("encode", True), ("encode", False)}


def test_decode_and_the_measurement_of_int8_are_in_bf16_where_that_is_asked_for(photos, tmp_path, encode, computed):
    store = tmp_path / "int8.zarr"
    encode(photos, store, dtype="int8", precision="bf16")
    assert set(computed) == {("encode", True), ("decode", True)}
    computed.clear()
    request = DecodeRequest(store=str(store), out_dir=tmp_path / "out", rows="0:2", device="cpu", precision="bf16")
    assert decode_store(request, Silent()).num_written == 2
    assert computed == [("decode", True)]


def float32_and_int8(source: Path, tmp_path: Path, encode, **options) -> tuple[np.ndarray, Path]:
    """The latents of a float32 store, and an int8 store of the same."""
    encode(source, tmp_path / "float32.zarr", dtype="float32", **options)
    encode(source, tmp_path / "int8.zarr", dtype="int8", **options)
    return LatentStore(tmp_path / "float32.zarr").latents(range(24)), tmp_path / "int8.zarr"


def scale_of(store: Path, view: str = "latents") -> np.ndarray:
    """[c, 1, 1], as the array's own attribute has it."""
    return np.array(open_plainly(store)[view].attrs["scale"], np.float32)[:, None, None]


def test_int8_values_are_within_half_a_step_and_those_clipped_are_counted(photos, tmp_path, encode, monkeypatch):
    monkeypatch.setattr(quantisation, "_MOST_IMAGES", 6)  # so that others are beyond their scale
    right, store = float32_and_int8(photos, tmp_path, encode)

    steps = right / scale_of(store)
    is_clipped = np.abs(np.rint(steps)) > 127
    stored = open_plainly(store)["latents"][:]
    assert stored.dtype == np.int8
    assert np.abs(stored - steps)[~is_clipped].max() <= 0.5 + 1e-5
    assert (stored[is_clipped] == 127 * np.sign(steps[is_clipped])).all()
    assert open_plainly(store).attrs["num_clipped"] == {"latents": is_clipped.sum()}
    assert 0 < is_clipped.sum() < 0.2 * is_clipped.size


def test_every_reader_gets_the_same_values_from_int8(photos, tmp_path, encode):
    encode(photos, tmp_path / "int8.zarr", dtype="int8")

    metadata = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "int8.zarr" / "latents")}}
    stored = open_plainly(tmp_path / "int8.zarr")["latents"][:]
    assert np.array_equal(tensorstore.open(metadata, read=True).result()[:].read().result(), stored)
    latents = LatentStore(tmp_path / "int8.zarr").latents(range(24))
    assert latents.dtype == np.float32
    assert np.array_equal(latents, stored * scale_of(tmp_path / "int8.zarr"))


def test_what_int8_costs_is_measured_said_and_kept(photos, tmp_path, encode, small_checkpoint):
    right, store = float32_and_int8(photos, tmp_path, encode)

    kept = open_plainly(store).attrs["quantisation"]
    rounded = LatentStore(store).latents(range(24))
    relative = np.sqrt(np.square(rounded - right).mean() / np.square(right).mean())
    assert (kept["num_images"], kept["quantile"]) == (24, 0.9999)
    assert kept["relative_rmse"] == {"latents": pytest.approx(relative, rel=0.01)}
    originals = read_originals(LatentStore(store), list(range(24)))
    for name, latents in (("psnr_float32", right), ("psnr_int8", rounded)):
        with torch.inference_mode():
            decoded = to_uint8(load_autoencoder(str(small_checkpoint)).decode(torch.from_numpy(latents)))
        pictures = torch.from_numpy(np.stack([originals[row] for row in range(24)])).permute(0, 3, 1, 2)
        assert kept[name] == pytest.approx(float(psnr(pictures / 255, decoded / 255).mean()), abs=0.01)

    listening = Heard()
    encode(photos, tmp_path / "again.zarr", listening, dtype="int8")
    before, after = kept["psnr_float32"], kept["psnr_int8"]
    assert [sentence for sentence in listening.said if sentence.startswith("int8")] == [
        f"int8, on 24 images: relative error {kept['relative_rmse']['latents']:.2%} of the float32 latents, "
        f"PSNR {before:.2f} -> {after:.2f} dB ({after - before:+.2f})"
    ]


def test_statistics_of_int8_are_those_of_the_values_a_reader_gets(photos, tmp_path, encode):
    encode(photos, tmp_path / "int8.zarr", dtype="int8")

    values = LatentStore(tmp_path / "int8.zarr").latents(range(24)).astype(np.float64)
    statistics = open_plainly(tmp_path / "int8.zarr")["statistics/latents"]
    std = values.std((0, 2, 3))
    assert np.abs(statistics["channel_mean"][:] - values.mean((0, 2, 3))).max() <= 1e-12 * std.min()
    assert np.abs(statistics["channel_std"][:] - std).max() <= 1e-12 * std.min()
    assert np.array_equal(statistics["position_max"][:], values.max((0, 1)))


def test_failed_rows_of_int8_are_minus_128_in_zarr_and_nan_in_a_reader(photos, tmp_path, encode):
    source = shutil.copytree(photos, tmp_path / "photos")
    (source / "person/2.jpg").write_bytes(b"")
    encode(source, tmp_path / "int8.zarr", dtype="int8", flip=True)

    for view in ("latents", "latents_flip"):
        stored = open_plainly(tmp_path / "int8.zarr")[view][:]
        assert (stored[10] == -128).all() and (np.delete(stored, 10, 0) >= -127).all()
        latents = LatentStore(tmp_path / "int8.zarr", view).latents(range(24))
        assert np.isnan(latents[10]).all() and np.isfinite(np.delete(latents, 10, 0)).all()


def test_each_view_of_int8_has_a_scale_of_its_own(photos, tmp_path, encode):
    encode(photos, tmp_path / "float32.zarr", dtype="float32", flip=True, sizes=(64, 96))
    encode(photos, tmp_path / "int8.zarr", dtype="int8", flip=True, sizes=(64, 96))

    views = ["latents", "latents_flip", "latents_96", "latents_96_flip"]
    assert open_plainly(tmp_path / "int8.zarr").attrs["num_clipped"].keys() == set(views)
    scales = [scale_of(tmp_path / "int8.zarr", view) for view in views]
    assert len({scale.tobytes() for scale in scales}) == 4
    for view, scale in zip(views, scales, strict=True):
        right = LatentStore(tmp_path / "float32.zarr", view).latents(range(24))
        error = np.abs(LatentStore(tmp_path / "int8.zarr", view).latents(range(24)) - right)
        assert (error <= scale * 0.51).mean() > 0.99  # but for those clipped


class Interrupting(Silent):
    """Stops when the scale has been measured and the store is not there yet, or when rows have been written."""

    def __init__(self, before_creation: bool) -> None:
        self._before_creation = before_creation

    def say(self, sentence: str) -> None:
        if self._before_creation:
            raise KeyboardInterrupt

    def advance(self, count: int = 1, failed: int = 0, note: str = "") -> None:
        if self._is_encoding:
            raise KeyboardInterrupt

    def start(self, task: str, total: int, done: int = 0, unit: str = "images") -> None:
        self._is_encoding = task == "encode"


@pytest.mark.parametrize("before_creation", [True, False])
def test_the_scale_is_the_same_after_an_interruption(photos, tmp_path, encode, before_creation):
    with pytest.raises(KeyboardInterrupt):
        encode(photos, tmp_path / "int8.zarr", Interrupting(before_creation), dtype="int8")
    assert (tmp_path / "int8.zarr" / "zarr.json").exists() != before_creation
    encode(photos, tmp_path / "int8.zarr", dtype="int8")

    encode(photos, tmp_path / "whole.zarr", dtype="int8")
    store, whole = (open_plainly(tmp_path / name) for name in ("int8.zarr", "whole.zarr"))
    assert store.attrs["quantisation"] == whole.attrs["quantisation"]
    assert np.array_equal(store["latents"][:], whole["latents"][:])


def test_an_append_keeps_the_scale_and_the_rows_it_was_measured_on(photos, tmp_path, encode):
    source = shutil.copytree(photos, tmp_path / "photos")
    encode(source, tmp_path / "int8.zarr", dtype="int8")
    before = open_plainly(tmp_path / "int8.zarr")
    scale, rows = before.attrs["quantisation"], before["latents"][:]
    for number in range(4):  # with more contrast than any before
        pixels = np.random.default_rng(number).integers(0, 2, (64, 64, 3), np.uint8) * 255
        Image.fromarray(pixels).save(source / f"noise {number}.png")
    listening = Heard()
    encode(source, tmp_path / "int8.zarr", listening, dtype="int8", append=True)

    store = open_plainly(tmp_path / "int8.zarr")
    assert store.attrs["quantisation"] == scale
    assert store["latents"].attrs["scale"] == scale["scale"]["latents"]
    assert store["latents"].shape[0] == 28 and np.array_equal(store["latents"][:24], rows)
    assert not [sentence for sentence in listening.said if sentence.startswith("int8")]
