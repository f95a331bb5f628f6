"""What `tcae eval` measures, of what, and what it says about it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tcae_cli.autoencoders.by_name import load_autoencoder
from tcae_cli.errors import FieldError, NotFoundError, SourceError, StoreError, UsageError, WeightsError
from tcae_cli.evaluation.networks import NETWORKS
from tcae_cli.images.image_file import decode_image
from tcae_cli.images.transform import resize_and_crop, to_float, to_uint8
from tcae_cli.jobs.decode import decode_store
from tcae_cli.jobs.evaluate import evaluate
from tcae_cli.metrics.frechet import FeatureSums, frechet_distance
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.reports.decode import DecodeRequest
from tcae_cli.reports.evaluation import EvalReport, EvalRequest
from tcae_cli.reports.progress import Silent

from ..conftest import save_small_model
from ..forked import free_port
from ..forms import FORMS, Sample
from ..heard import Heard
from ..seeded_networks import SeededInception
from ..tables import write_parquet

SIZE = 64
SEEDED_TCAE = Path(__file__).parents[1] / "seeded_networks.py"


def measured(*metrics: str, progress=None, **options) -> EvalReport:
    options = {"num_workers": 0, "device": "cpu"} | {k: str(v) if k == "data" else v for k, v in options.items()}
    return evaluate(EvalRequest(metrics=metrics, **options), progress or Silent())


def values(report: EvalReport) -> dict[str, float]:
    (evaluation,) = report.evaluations
    return evaluation.values


def crops(folder: Path, resize="adm") -> torch.Tensor:
    """[n, 3, 64, 64], uint8, of all images in the order of their names."""
    paths = sorted(folder.rglob("*.jpg"), key=lambda path: str(path.relative_to(folder)))
    images = [decode_image(path.read_bytes()) for path in paths]
    return torch.stack([resize_and_crop(image, (SIZE, SIZE), resize).pixels for image in images])


def as_arrays(images):
    return [image.permute(1, 2, 0).numpy() for image in images]


@pytest.fixture
def inception(add) -> SeededInception:
    """A small network in the Inception's place."""
    network = SeededInception()
    add(NETWORKS, "inception", lambda _path: network)
    return network


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory) -> Path:
    """Another small model with random weights."""
    return save_small_model(tmp_path_factory.mktemp("other") / "other.safetensors", seed=1)


# A model on a source


def test_psnr_and_ssim_are_scikit_images_means_over_images_after_a_uint8_round_trip(photos, small_checkpoint):
    originals = crops(photos)
    decoded = to_uint8(load_autoencoder(str(small_checkpoint))(to_float(originals)))
    pairs = list(zip(as_arrays(originals), as_arrays(decoded), strict=True))
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}

    found = values(measured("psnr", "ssim", data=photos, models=(str(small_checkpoint),)))

    assert found["psnr"] == pytest.approx(np.mean([peak_signal_noise_ratio(a, b) for a, b in pairs]), abs=1e-4)
    similarities = [structural_similarity(a, b, channel_axis=2, data_range=255, **gaussian) for a, b in pairs]
    assert found["ssim"] == pytest.approx(np.mean(similarities), abs=1e-4)


@pytest.fixture(scope="module")
def figures_of_the_folder(photos, small_checkpoint) -> dict[str, float]:
    return values(measured("psnr", "ssim", data=photos / "animal", models=(str(small_checkpoint),)))


@pytest.mark.parametrize(("form", "num_workers"), [*((form, 0) for form in FORMS), ("parquet", 2), ("tar.gz", 2)])
def test_every_form_of_data_has_the_figures_of_a_folder(
    photos, small_checkpoint, figures_of_the_folder, write_source, form, num_workers
):
    samples = [Sample("cat", path.name, path.read_bytes()) for path in sorted((photos / "animal").iterdir())]
    source = write_source(form, samples[:5], samples[5:])
    found = measured("psnr", "ssim", data=source, models=(str(small_checkpoint),), num_workers=num_workers)
    assert values(found) == pytest.approx(figures_of_the_folder, rel=1e-6)


def test_a_field_that_only_one_of_two_sources_has_is_for_that_one_and_it_is_said(photos, small_checkpoint, tmp_path):
    paths = sorted(photos.rglob("*.jpg"))
    images = [path.read_bytes() for path in paths]
    columns = {"photo": images, "thumbnail": images, "label": [path.parent.name for path in paths]}
    data = write_parquet(tmp_path / "val.parquet", pa.table(columns))
    options = {"data": data, "probe_data": str(photos), "models": (str(small_checkpoint),)}
    heard = Heard()

    report = measured("probe", progress=heard, fields=SampleFields(image="photo"), **options)

    assert {"probe-tokens", "probe-latents"} <= values(report).keys()
    assert f"--image is not for {photos}, which has nothing to choose by it" in heard.said
    with pytest.raises(FieldError, match="--split"):
        measured("probe", fields=SampleFields(image="photo", split="train"), **options)


def test_rfid_is_between_the_crops_and_their_reconstructions(photos, small_checkpoint, inception):
    originals = crops(photos)
    decoded = to_uint8(load_autoencoder(str(small_checkpoint))(to_float(originals)))
    sides = [FeatureSums.of([SeededInception()(images)]).gaussian() for images in (decoded, originals)]

    report = measured("rfid", data=photos, models=(str(small_checkpoint),))

    assert values(report)["rfid"] == pytest.approx(frechet_distance(*sides), rel=1e-6)
    assert values(report)["rfid"] > 1
    assert report.warnings == [
        "rfid is of 24 images, fewer than its 64 features: compare it with figures of as many images only"
    ]
    assert "sha256 6726825d" in report.protocol["rfid"]
    assert report.protocol["crop"].startswith("centre 64 px")


def test_models_side_by_side_have_the_figures_they_have_alone(photos, small_checkpoint, other_checkpoint, inception):
    models, metrics = (str(small_checkpoint), str(other_checkpoint)), ("psnr", "rfid", "is", "effective-rank")
    together = measured(*metrics, data=photos, models=models)

    assert [evaluation.name for evaluation in together.evaluations] == list(models)
    for evaluation, model in zip(together.evaluations, models, strict=True):
        assert values(measured(*metrics, data=photos, models=(model,))) == pytest.approx(evaluation.values, rel=1e-9)
    assert together.evaluations[0].values["psnr"] != together.evaluations[1].values["psnr"]


def test_images_that_cannot_be_read_are_counted_and_left_out(photos, small_checkpoint, tmp_path):
    shutil.copytree(photos / "animal", tmp_path / "whole")
    shutil.copytree(photos / "animal", tmp_path / "broken")
    (tmp_path / "whole" / "3.jpg").unlink()
    (tmp_path / "broken" / "3.jpg").write_bytes(b"no image")
    whole, broken = (
        measured("psnr", data=tmp_path / name, models=(str(small_checkpoint),), batch_size=3)
        for name in ("whole", "broken")
    )

    assert (broken.num_images, broken.num_failed, broken.exit_code, whole.exit_code) == (7, 1, 3, 0)
    assert broken.failures == [{"path": "3.jpg", "reason": "not an image that can be read (8 bytes)"}]
    assert values(broken)["psnr"] == pytest.approx(values(whole)["psnr"], rel=1e-6)


def test_without_data_the_builtin_model_is_measured_on_the_sample_images_and_it_says_so():
    report = measured("psnr", num_workers=1)

    assert report.evaluations[0].name == "tcae-tiny"
    assert "sample images" in report.data and "no --data was given" in report.data
    assert report.num_images > 20
    assert values(report)["psnr"] > 24


def test_all_computes_what_it_can_and_says_what_it_cannot_and_why(photos, small_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nothing"))
    report = measured("all", data=photos, models=(str(small_checkpoint),))

    assert report.skipped.keys() == {"rfid", "fd-dinov2", "is", "lpips-vgg", "lpips-alex", "ifid", "gfid"}
    assert "--weights inception=PATH" in report.skipped["rfid"]
    assert "--weights dinov2=PATH" in report.skipped["fd-dinov2"]
    assert "--weights lpips-vgg=PATH" in report.skipped["lpips-vgg"]
    assert "--store" in report.skipped["ifid"]
    expected = {"psnr", "ssim", "effective-rank", "dead-channels", "probe-tokens", "probe-latents", "encode-macs"}
    assert expected <= values(report).keys()


def test_all_of_images_without_classes_says_so_of_the_probe_alone(photos, small_checkpoint):
    report = measured("all", data=photos / "animal", models=(str(small_checkpoint),))

    assert "has no labels" in report.skipped["probe"] and "psnr" in values(report)


def test_one_image_has_no_frechet_distance(photos, small_checkpoint, inception, tmp_path):
    shutil.copy(photos / "animal" / "0.jpg", tmp_path)
    report = measured("rfid", "psnr", data=tmp_path, models=(str(small_checkpoint),))

    assert np.isnan(values(report)["rfid"]) and values(report)["psnr"] > 0
    assert report.warnings == ["rfid is undefined: it needs two images"]


def test_a_metric_asked_for_by_name_is_not_skipped(photos, small_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    with pytest.raises(WeightsError, match=r"pt_inception-2015-12-05-6726825d.pth.*--weights inception=PATH"):
        measured("psnr", "rfid", data=photos, models=(str(small_checkpoint),))


def test_cost_alone_needs_no_images(small_checkpoint, tmp_path):
    report = measured("cost", models=(str(small_checkpoint),), report=tmp_path / "page")

    assert "encode-macs" in report.page.read_text()

    assert report.num_images == 0
    assert values(report)["encoder-parameters"] > 1000


# A store


@pytest.fixture
def imgs(photos, tmp_path) -> Path:
    shutil.copytree(photos, tmp_path / "imgs")
    return tmp_path / "imgs"


@pytest.fixture
def store(encode, imgs, tmp_path) -> str:
    encode(imgs, tmp_path / "out.zarr")
    return str(tmp_path / "out.zarr")


def test_a_store_is_measured_by_its_own_transform_against_its_own_source(store, imgs):
    report = measured("psnr", store=store)

    assert report.protocol["crop"].startswith("centre 64 px, short side resized as torch does")
    assert (report.num_images, report.data, report.evaluations[0].name) == (24, str(imgs), store)
    assert values(measured("psnr", store=store, data=imgs)) == values(report)


def test_decoded_files_have_the_figures_of_their_store(store, imgs, tmp_path, inception):
    decode_store(DecodeRequest(store=store, out_dir=tmp_path / "recon", device="cpu"), Silent())
    report = measured("psnr", "ssim", "rfid", reconstructions=str(tmp_path / "recon"), data=imgs, resize="torch")

    assert values(report) == pytest.approx(values(measured("psnr", "ssim", "rfid", store=store)), rel=1e-6)
    assert report.protocol["rounding"] == "the files as they are"
    assert report.warnings[1:] == []


def test_a_store_is_held_against_images_at_another_place_by_name(store, imgs, tmp_path):
    expected = measured("psnr", store=store)
    imgs.rename(tmp_path / "moved")
    Image.new("RGB", (80, 80)).save(tmp_path / "moved" / "animal" / "new.jpg")
    (tmp_path / "moved" / "animal" / "0.jpg").unlink()

    report = measured("psnr", store=store, data=tmp_path / "moved")

    assert report.num_images == 23
    assert report.warnings == [f"1 rows of {store} have no image in {tmp_path / 'moved'}; they are left out"]
    assert values(report)["psnr"] == pytest.approx(values(expected)["psnr"], abs=0.5)


def test_images_that_are_not_those_the_store_was_made_from_are_left_out(store, imgs):
    one, other = (imgs / "animal" / f"{number}.jpg" for number in (0, 1))
    one.write_bytes(other.read_bytes())

    report = measured("psnr", store=store)

    assert (report.num_images, report.num_failed) == (23, 1)
    assert report.failures == [{"path": "animal/0.jpg", "reason": "not the image that the store was made from"}]


def test_rows_of_a_store_that_are_not_ok_are_told(encode, imgs, tmp_path):
    (imgs / "animal" / "0.jpg").write_bytes(b"no image")
    encode(imgs, tmp_path / "out.zarr", max_failures="100%")

    report = measured("psnr", store=str(tmp_path / "out.zarr"))

    assert report.warnings == [f"23 of 24 rows of {tmp_path / 'out.zarr'} are ok; the others are left out"]


@pytest.mark.parametrize("kind", ["model", "store", "folder"])
def test_a_last_batch_of_one_image_and_a_page_of_it(store, imgs, small_checkpoint, tmp_path, kind):
    decode_store(DecodeRequest(store=store, out_dir=tmp_path / "recon", device="cpu"), Silent())
    of = {
        "model": {"models": (str(small_checkpoint),), "data": imgs},
        "store": {"store": store},
        "folder": {"reconstructions": str(tmp_path / "recon"), "data": imgs},
    }
    report = measured("psnr", batch_size=23, report=tmp_path / "page", **of[kind])

    assert report.num_images == 24
    assert report.page == tmp_path / "page" / "index.html" and report.page.exists()


def test_a_store_is_not_decoded_by_another_model(store, other_checkpoint):
    with pytest.raises(StoreError, match="was made with encoder"):
        measured("psnr", store=store, models=(str(other_checkpoint),))


# Two folders


def test_reconstructions_are_paired_by_name_whatever_the_suffix(imgs, tmp_path):
    for path in imgs.rglob("*.jpg"):
        made = tmp_path / "recon" / path.relative_to(imgs).with_suffix(".png")
        made.parent.mkdir(parents=True, exist_ok=True)
        pixels = resize_and_crop(decode_image(path.read_bytes()), (SIZE, SIZE), "adm").pixels
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(made)
    Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "recon" / "grid.png")
    (tmp_path / "recon" / "person" / "0.png").unlink()

    report = measured("psnr", reconstructions=str(tmp_path / "recon"), data=imgs)

    assert values(report)["psnr"] == float("inf")
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["evaluations"][0]["values"]["psnr"] is None
    assert report.num_images == 23
    assert [warning.split(";")[0] for warning in report.warnings] == [
        "1 of 24 originals have no reconstruction",
        f"1 images in {tmp_path / 'recon'} are named after no original",
        f"psnr: 23 of 23 pairs of {tmp_path / 'recon'} are identical",
    ]
    assert report.warnings[-1].endswith("; psnr is infinite")


def test_identical_pairs_are_counted_and_do_not_make_the_psnr_of_all_infinite(tmp_path, png):
    for folder, seeds in (("data", range(5)), ("recon", (0, 1, 12, 13, 14))):
        (tmp_path / folder).mkdir()
        for number, seed in enumerate(seeds):
            (tmp_path / folder / f"{number}.png").write_bytes(png(64, 64, seed))
    pairs = [[decode_image(png(64, 64, seed)) for seed in (number, 10 + number)] for number in (2, 3, 4)]

    report = measured("psnr", reconstructions=str(tmp_path / "recon"), data=tmp_path / "data")

    expected = np.mean([peak_signal_noise_ratio(a, b) for a, b in pairs])
    assert values(report)["psnr"] == pytest.approx(expected, abs=1e-4)
    assert report.warnings == [
        f"psnr: 2 of 5 pairs of {tmp_path / 'recon'} are identical; the mean is over the other 3"
    ]


def test_reconstructions_of_other_images_are_refused(imgs, photos, tmp_path):
    (tmp_path / "recon").mkdir()
    Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "recon" / "else.png")
    with pytest.raises(SourceError, match=r"none of the 1 images in .* is named after one of"):
        measured("psnr", reconstructions=str(tmp_path / "recon"), data=imgs)


def test_images_smaller_than_the_window_have_a_psnr_and_no_ssim(tmp_path):
    for name, value in (("data", 0), ("recon", 255)):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (4, 4), (value, number, 0)).save(tmp_path / name / f"{number}.png")
    images = {"reconstructions": str(tmp_path / "recon"), "data": str(tmp_path / "data")}

    with pytest.raises(UsageError, match="ssim needs images of at least 11 px, its window, and these have 4; omit it"):
        measured("ssim", **images)
    assert measured("psnr", **images).evaluations[0].values["psnr"] > 0


# References


def test_what_the_originals_are_to_a_network_is_kept_for_the_next_time(photos, small_checkpoint, inception):
    first = measured("rfid", data=photos, models=(str(small_checkpoint),))
    assert inception.num_images == 48
    second = measured("rfid", data=photos, models=(str(small_checkpoint),))

    assert inception.num_images == 48 + 24
    assert values(first) == values(second)


def test_what_was_kept_of_images_that_have_changed_is_measured_again(
    imgs, small_checkpoint, inception, tmp_path, monkeypatch
):
    measured("rfid", data=imgs, models=(str(small_checkpoint),))
    path = imgs / "animal" / "0.jpg"
    picture = path.read_bytes()
    shutil.copy(imgs / "person" / "0.jpg", path)
    path.write_bytes(path.read_bytes().ljust(len(picture), b"\0")[: len(picture)])
    hearing = Heard()

    again = measured("rfid", data=imgs, models=(str(small_checkpoint),), progress=hearing)

    assert any("have changed" in sentence for sentence in hearing.said)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    assert values(again) == values(measured("rfid", data=imgs, models=(str(small_checkpoint),)))


def test_statistics_of_others_are_a_reference(photos, small_checkpoint, inception, tmp_path):
    gaussian = FeatureSums.of([SeededInception()(crops(photos))]).gaussian()
    np.savez(tmp_path / "reference.npz", mu=gaussian.mean.numpy(), sigma=gaussian.covariance.numpy())
    report = measured("rfid", data=photos, models=(str(small_checkpoint),), reference=tmp_path / "reference.npz")

    assert values(report) == pytest.approx(values(measured("rfid", data=photos, models=(str(small_checkpoint),))))
    assert "reference.npz" in report.protocol["reference"]


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"mu": np.zeros(4), "sigma": np.eye(4)}, r"is of \[4\] features, not \[64\]"),
        ({"mu": np.full(64, np.nan), "sigma": np.eye(64)}, "values that are not numbers"),
        ({}, "mu and sigma"),
    ],
)
def test_a_reference_of_something_else_is_refused(photos, small_checkpoint, inception, tmp_path, arrays, sentence):
    np.savez(tmp_path / "reference.npz", **arrays)
    with pytest.raises(SourceError, match=sentence):
        measured("rfid", data=photos, models=(str(small_checkpoint),), reference=tmp_path / "reference.npz")


# What cannot be


@pytest.mark.parametrize(
    ("metrics", "options", "error", "sentence"),
    [
        (("fid",), {}, UsageError, "--metric fid is not one of rfid, fd-dinov2, is, psnr"),
        (("psnr",), {"size": 60}, UsageError, "--size 60 is not a multiple of 32.*try 64"),
        (("psnr",), {"models": ("nowhere",)}, NotFoundError, "no model at nowhere"),
        (("psnr",), {"data": "nowhere"}, NotFoundError, "nowhere"),
        (("ifid",), {}, UsageError, "ifid is read from a store of latents; name one with --store"),
        (("rfid",), {"reference": Path("nowhere.npz")}, NotFoundError, "nowhere.npz does not exist"),
        (("psnr",), {"reference": Path("some.npz")}, UsageError, "--reference is for gfid and rfid"),
        (("psnr",), {"probe_data": "."}, UsageError, "--probe-data is for probe"),
        (("psnr",), {"models": ("a", "tcae-tiny")}, NotFoundError, "no model at a"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(
    photos, small_checkpoint, inception, metrics, options, error, sentence
):
    with pytest.raises(error, match=sentence):
        measured(*metrics, **({"data": photos, "models": (str(small_checkpoint),)} | options))


def test_models_of_different_sizes_need_a_size(photos, small_checkpoint):
    models = (str(small_checkpoint), "tcae-tiny")
    with pytest.raises(UsageError, match=r"different sizes \(.*small.safetensors for 64, tcae-tiny for 256\)"):
        measured("psnr", data=photos, models=models)
    assert len(measured("psnr", data=photos, models=models, size=64).evaluations) == 2


# Ranks


@pytest.fixture
def launched(forks) -> Callable[[int, list[str]], str]:
    """Runs a command as so many ranks, and gives what they print together."""
    program = f"import runpy; runpy.run_path({str(SEEDED_TCAE)!r}, run_name='__main__')"

    def run(num_ranks: int, arguments: list[str]) -> str:
        launch = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        places = [launch | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)]
        ranks = [forks.start(arguments, os.environ | place, program) for place in places]
        printed, said = zip(*(rank.communicate(timeout=120) for rank in ranks), strict=True)
        assert [rank.returncode for rank in ranks] == [0] * num_ranks, said
        return "".join(printed)

    return run


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_any_number_of_ranks_has_the_figures_of_one(photos, encode, inception, launched, tmp_path, num_ranks):
    imgs = tmp_path / "imgs"
    shutil.copytree(photos, imgs)
    (imgs / "animal" / "0.jpg").write_bytes(b"no image")
    encode(imgs, tmp_path / "out.zarr", max_failures="100%")
    metrics = ("rfid", "is", "psnr", "ssim", "effective-rank", "channels", "ifid", "probe")
    alone = measured(*metrics, store=str(tmp_path / "out.zarr"), batch_size=5)

    options = [word for metric in metrics for word in ("--metric", metric)]
    options += ["--batch-size", "5", "--device", "cpu", "--workers", "0", "--json"]
    (line,) = launched(num_ranks, ["eval", "--store", str(tmp_path / "out.zarr"), *options]).splitlines()
    together = json.loads(line)
    assert (together["num_images"], together["num_failed"]) == (alone.num_images, alone.num_failed) == (23, 0)
    assert together["evaluations"][0]["values"] == pytest.approx(values(alone), rel=1e-6)


# Generated images


@pytest.fixture
def samples(photos, tmp_path) -> Path:
    """Ten squares that are not among the photographs."""
    (tmp_path / "samples").mkdir()
    for number, image in enumerate(crops(photos)[:10]):
        Image.fromarray(255 - image.permute(1, 2, 0).numpy()).save(tmp_path / "samples" / f"{number}.png")
    return tmp_path / "samples"


def test_gfid_and_is_are_of_generated_images_against_real_ones(photos, samples, inception):
    sides = [FeatureSums.of([SeededInception()(i)]).gaussian() for i in (255 - crops(photos)[:10], crops(photos))]

    report = measured("gfid", "is", samples=str(samples), data=photos)

    assert values(report).keys() == {"gfid", "is"} and report.num_images == 10
    assert values(report)["gfid"] == pytest.approx(frechet_distance(*sides), rel=1e-6)
    assert values(measured("gfid", samples=str(samples), data=photos)) == {"gfid": values(report)["gfid"]}
    assert report.protocol["samples"] == "the files as they are"


def test_generated_images_may_lie_in_one_npz(photos, samples, inception, tmp_path):
    pixels = [decode_image(path.read_bytes()) for path in sorted(samples.rglob("*.png"))]
    np.savez(tmp_path / "samples.npz", np.stack(pixels))

    report = measured("gfid", samples=str(tmp_path / "samples.npz"), data=photos)

    assert values(report) == values(measured("gfid", samples=str(samples), data=photos)) and report.num_images == 10


def test_generated_images_are_compared_with_statistics_of_real_ones(photos, samples, inception, tmp_path):
    gaussian = FeatureSums.of([SeededInception()(crops(photos))]).gaussian()
    np.savez(tmp_path / "reference.npz", mu=gaussian.mean.numpy(), sigma=gaussian.covariance.numpy())

    report = measured("gfid", samples=str(samples), reference=tmp_path / "reference.npz")

    assert values(report) == pytest.approx(values(measured("gfid", samples=str(samples), data=photos)))


@pytest.mark.parametrize(
    ("metrics", "options", "error", "sentence"),
    [
        (("psnr",), {"data": "."}, UsageError, "psnr compares images with their originals, and --samples have none"),
        (("probe",), {"data": "."}, UsageError, "probe is of a model or its latents, and images alone are given"),
        (("gfid",), {}, UsageError, "gfid needs real images or statistics of them; give --data or --reference"),
        (("gfid",), {"models": ("tcae-tiny",)}, UsageError, "so no model is used; omit tcae-tiny"),
    ],
)
def test_what_generated_images_do_not_have_is_refused(samples, photos, inception, metrics, options, error, sentence):
    options = options | ({"data": photos} if "data" in options else {})
    with pytest.raises(error, match=sentence):
        measured(*metrics, samples=str(samples), **options)


def test_generated_images_are_of_one_size(samples, photos, inception):
    Image.new("RGB", (32, 32)).save(samples / "small.png")
    with pytest.raises(SourceError, match=r"small.png is 32x32 pixels, others are 64x64"):
        measured("gfid", samples=str(samples), data=photos)
