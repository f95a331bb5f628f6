"""`--posterior`: stores that hold the deviations of an autoencoder's latents, from the command to the Hub."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from rich.console import Console

from tcae_cli.autoencoders.diffusers_calls import OnImages
from tcae_cli.errors import StoreError, UsageError
from tcae_cli.images.transform import to_float
from tcae_cli.jobs.cards import store_card
from tcae_cli.jobs.decode import decode_store, read_originals
from tcae_cli.jobs.info import describe_store
from tcae_cli.jobs.plan_encode import plan_encoding
from tcae_cli.jobs.verify import verify_store
from tcae_cli.reports.decode import DecodeRequest
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.encode_plan import EncodePlanRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.store import InfoRequest, VerifyReport, VerifyRequest
from tcae_cli.runtime.hub_name import parse_name
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.store.buckets import stores_of
from tcae_cli.store.dataset import LatentDataset
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.reader import LatentStore
from tcae_cli.terminal.store_tables import show_info

from ..small_diffusers import save_dc, save_kl
from ..store_contents import arrays_of, assert_same_arrays, assert_same_store, refused

SIZES = (64,)
ARRAYS = {"latents", "latents_std", "latents_flip", "latents_flip_std"}


@pytest.fixture(scope="module")
def kl(tmp_path_factory):
    """SD's autoencoder, small, and its name."""
    folder = tmp_path_factory.mktemp("kl")
    return save_kl(folder, force_upcast=False), f"diffusers:{folder}"


@pytest.fixture(scope="module")
def encode_kl(kl, encode):
    def run(source, path, progress=None, **options):
        return encode(source, path, progress, **{"model": kl[1], "sizes": SIZES, "posterior": True} | options)

    return run


@pytest.fixture(scope="module")
def whole(photos, encode_kl, tmp_path_factory) -> Path:
    """24 photographs in two shards, mirrored too."""
    path = tmp_path_factory.mktemp("posterior") / "store.zarr"
    encode_kl(photos, path, flip=True)
    return path


def verify(path: Path, num_rows: int = 0, **options) -> VerifyReport:
    picture = path.with_name("picture.png")
    request = VerifyRequest(store=str(path), num_rows=num_rows, device="cpu", picture=picture, **options)
    return verify_store(request, Silent())


@pytest.mark.parametrize("view", ["latents", "latents_flip"])
@torch.no_grad()
def test_a_store_holds_the_mean_and_the_deviation_that_the_model_itself_gives(whole, kl, view):
    store = LatentStore(whole, view)
    originals = read_originals(store, list(range(24)))
    pixels = torch.from_numpy(np.stack([originals[row] for row in range(24)])).permute(0, 3, 1, 2)
    expected = kl[0].encode(to_float(pixels)).latent_dist

    np.testing.assert_allclose(store.latents(range(24)), expected.mean, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(store.deviations().latents(range(24)), expected.std, rtol=2e-3, atol=2e-3)
    assert (expected.std > 0).all()


def test_without_it_a_store_has_no_other_array(photos, whole, encode_kl, tmp_path):
    encode_kl(photos, tmp_path / "plain.zarr", flip=True, posterior=False)
    plain, with_std = arrays_of(tmp_path / "plain.zarr"), arrays_of(whole)
    added = {name for name in with_std.keys() - plain.keys() if not name.startswith("statistics/")}
    assert added == {"latents_std", "latents_flip_std"}
    assert np.array_equal(plain["latents"], with_std["latents"])


@pytest.mark.parametrize("model", ["dc", None])
def test_a_model_without_a_posterior_is_refused(photos, tcae, small_checkpoint, tmp_path, model):
    if model:
        save_dc(tmp_path / "dc")
    name = f"diffusers:{tmp_path / 'dc'}" if model else small_checkpoint
    code, _, said = tcae("encode-dataset", photos, tmp_path / "store.zarr", "--model", name, "--posterior")
    assert code == 2 and not (tmp_path / "store.zarr").exists()
    assert f"--posterior stores the deviations of latents, and {name} gives latents without any; omit --posterior" in (
        " ".join(said.split())
    )


def test_a_store_with_it_is_not_continued_without_it(photos, whole, encode_kl, tmp_path):
    path = shutil.copytree(whole, tmp_path / "store.zarr")
    said = refused(encode_kl, photos, path, flip=True, posterior=False)
    assert "it was made with --posterior given, not absent" in said
    encode_kl(photos, tmp_path / "plain.zarr", posterior=False)
    assert "--posterior absent, not given" in refused(encode_kl, photos, tmp_path / "plain.zarr")


def test_parts_and_what_was_lost_make_the_same_store(photos, whole, encode_kl, tmp_path):
    path = tmp_path / "parts.zarr"
    for part in range(2):
        encode_kl(photos, path, flip=True, num_parts=2, part=part)
    assert_same_store(path, whole)
    (path / "latents_std" / "c.1.0.0.0").unlink()
    assert encode_kl(photos, path, flip=True).num_encoded_now == 8
    assert_same_arrays(path, whole)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_rows_are_appended_and_failed_ones_tried_again(photos, encode_kl, tmp_path, dtype):
    source, path = shutil.copytree(photos, tmp_path / "photos"), tmp_path / "store.zarr"
    (source / "animal" / "3.jpg").write_bytes(b"not an image")
    encode_kl(source, path, max_failures="10%", dtype=dtype)
    before = LatentStore(path).deviations()
    assert np.isnan(before.latents([3])).all() and np.isfinite(before.latents([2])).all()

    shutil.copy(photos / "animal" / "4.jpg", source / "animal" / "3.jpg")
    shutil.copy(photos / "thing" / "7.jpg", source / "thing" / "9.jpg")
    encode_kl(source, path, append=True, retry_failed=True, dtype=dtype)
    after = LatentStore(path).deviations()
    assert np.array_equal(after.latents([*range(3), *range(4, 24)]), before.latents([*range(3), *range(4, 24)]))
    assert len(after) == 25 and np.allclose(after.latents([3, 24]), after.latents([4, 23]), atol=0.02)
    assert verify(path).num_problems == 0


def test_int8_has_a_scale_for_the_deviations_of_each_channel(photos, whole, encode_kl, tmp_path, capsys):
    encode_kl(photos, tmp_path / "store.zarr", dtype="int8", flip=True)
    store = LatentStore(tmp_path / "store.zarr").deviations()
    scale = np.array(store.spec.quantisation.scale["latents_std"])[:, None, None]
    exact = LatentStore(whole).deviations().latents(range(24)).astype(np.float32)
    assert store.stored(range(24)).dtype == np.int8 and store.spec.quantisation.scale.keys() == ARRAYS
    assert (np.abs(store.latents(range(24)) - exact) <= 0.51 * scale + 1e-3).mean() > 0.999


def test_a_deviation_that_is_not_finite_is_encoded_once_more_and_then_fails(photos, encode_kl, tmp_path, monkeypatch):
    found = OnImages.encode_posterior

    def beyond(of_many: float, of_one: float) -> None:
        def encode_posterior(self, images):
            mean, std = found(self, images)
            return mean, std * (of_many if len(images) > 1 else of_one)

        monkeypatch.setattr(OnImages, "encode_posterior", encode_posterior)

    beyond(1e6, 1)
    report = encode_kl(photos, tmp_path / "again.zarr")
    assert (report.num_ok, report.num_failed) == (24, 0)
    again = describe_store(InfoRequest(store=str(tmp_path / "again.zarr")), Silent()).rows["encoded_again_in_float32"]
    assert again == 24
    for factor, sentence in ((np.inf, "are not finite, in float32 either"), (1e6, "are beyond float16")):
        beyond(factor, factor)
        report = encode_kl(photos, tmp_path / f"{factor}.zarr", max_failures="100%")
        assert report.num_failed == 24 and f"the latents {sentence}" in report.failures[0].error


def test_the_statistics_are_of_latents_drawn_and_info_shows_the_posteriors_share(whole):
    store = LatentStore(whole)
    mean, std = (each.latents(range(24)).astype(np.float64) for each in (store, store.deviations()))
    variance = mean.var(axis=(0, 2, 3)) + np.square(std).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(store.channel_normalisation[1].ravel(), np.sqrt(variance), rtol=1e-6)

    report = describe_store(InfoRequest(store=str(whole)), Silent())
    share = np.square(std).mean() / (mean.var() + np.square(std).mean())
    assert report.posterior["latents"] == pytest.approx(share) and report.posterior.keys() == {
        "latents",
        "latents_flip",
    }
    assert report.statistics.keys() == {"latents", "latents_flip"} and report.share_of_raw_latents < 1
    console = Console(file=io.StringIO(), width=200)
    show_info(console, report)
    words = f"latents: deviations in latents_std, {share:.2%} of the variance of latents drawn from the posterior"
    assert words in console.file.getvalue()


def test_a_store_decodes_as_its_means_do(photos, whole, encode_kl, tmp_path):
    encode_kl(photos, tmp_path / "plain.zarr", posterior=False)
    for name, path in (("with", whole), ("without", tmp_path / "plain.zarr")):
        request = DecodeRequest(store=str(path), out_dir=tmp_path / name, rows="0:3", device="cpu")
        assert decode_store(request, Silent()).num_written == 3
    for one in (tmp_path / "with").rglob("*.png"):
        assert one.read_bytes() == (tmp_path / "without" / one.relative_to(tmp_path / "with")).read_bytes()
    with pytest.raises(UsageError, match="has no view latents_std; it has latents, latents_flip"):
        decode_store(DecodeRequest(store=str(whole), out_dir=tmp_path, view="latents_std", device="cpu"), Silent())


def test_verify_compares_deviations_with_those_encoded_now(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = verify(whole, num_rows=3)
    assert (report.num_problems, report.not_checked) == (0, [])
    found = OnImages.encode_posterior
    monkeypatch.setattr(
        OnImages,
        "encode_posterior",
        lambda self, images: (found(self, images)[0], images.new_full((len(images), 4, 16, 16), 3.0)),
    )
    report = verify(whole, num_rows=3)
    assert report.num_problems == 6
    assert all(" the deviations of row " in each and " are not those of " in each for each in report.problems)


def test_verify_finds_a_damaged_deviation(whole, tmp_path):
    path = shutil.copytree(whole, tmp_path / "store.zarr")
    file = path / "latents_flip_std" / "c.0.0.0.0"
    data = bytearray(file.read_bytes())
    data[100] ^= 0xFF
    file.write_bytes(data)
    problems = verify(path).problems
    assert problems[0].startswith("latents_flip_std/c.0.0.0.0 has been changed") and any(
        "latents_flip_std/c.0.0.0.0: the latents of row 0 are damaged" in each for each in problems
    )
    with pytest.raises(StoreError, match=r"latents_flip_std/c\.0\.0\.0\.0: the latents of row 0 are damaged"):
        LatentDataset(path, random_flip=True, sample_posterior=True)[[0] * 20]


def test_buckets_hold_their_deviations_each(shaped_photos, encode_kl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "store.zarr"
    encode_kl(shaped_photos, path, buckets=True, bucket_step=16)
    root = StoreHandle(LocalFolder(path))
    for bucket in stores_of(root).values():
        store = LatentStore(bucket.folder.uri)
        assert store.deviations().latents([0]).shape == (1, *store.sample_shape)
    report = verify(path, num_rows=4)
    assert (report.num_problems, report.not_checked) == (0, [])
    assert describe_store(InfoRequest(store=str(path)), Silent()).posterior.keys() == {"latents"}
    dataset = LatentDataset(path, sample_posterior=True)
    values = torch.cat([dataset[each.samples]["latents"].flatten() for each in dataset.buckets for _ in range(4)])
    assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02


def test_a_dry_run_counts_the_deviations(photos, kl, tmp_path):
    def planned(posterior: bool, **options) -> int:
        request = EncodeRequest(
            source=str(photos), store=str(tmp_path / "none.zarr"), model=kl[1], sizes=SIZES, device="cpu",
            num_workers=0, posterior=posterior, codec="none", **options,
        )  # fmt: skip
        return plan_encoding(EncodePlanRequest(encode=request, num_ranks=1), Silent()).store_bytes

    of_deviations = 24 * 4 * 16 * 16
    assert planned(True) - planned(False) >= 2 * of_deviations
    assert planned(True, dtype="int8") > of_deviations * 2  # int8's scales of both are measured


def test_plain_readers_find_an_array_beside_each_view(whole):
    import xarray

    group = zarr.open_group(whole, mode="r")
    assert {name for name, array in group.arrays() if array.ndim == 4} == ARRAYS
    for array in ARRAYS:
        assert group[array].metadata.dimension_names == ("row", "channel", "height", "width")
        assert dict(group[array].attrs)["flip"] == ("flip" in array)
    opened = xarray.open_zarr(whole)
    assert opened["latents_std"].shape == (24, 4, 16, 16)
    assert np.array_equal(opened["latents_std"][:4], LatentStore(whole).deviations().latents(range(4)))


def test_the_card_of_a_pushed_store_says_so(whole):
    card = store_card(StoreHandle(LocalFolder(whole)), parse_name("hf://datasets/org/latents/out.zarr"))
    assert "the means of a posterior, with its deviations in `latents_std`, `latents_flip_std`" in card
    assert "| `latents_std` |" in card
