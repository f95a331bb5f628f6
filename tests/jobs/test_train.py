import json
import shutil
import tarfile

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from tcae_cli.autoencoders.by_name import load_autoencoder
from tcae_cli.autoencoders.tcae import read_header
from tcae_cli.errors import CheckpointError, NotFoundError, UsageError, WeightsError
from tcae_cli.jobs import train as train_job
from tcae_cli.jobs.evaluate import evaluate
from tcae_cli.jobs.train import precision_words, train
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.reports.evaluation import EvalRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.reports.train import TrainRequest
from tcae_cli.training.views.stream import stream_training_batches

from ..forms import Sample
from ..heard import Heard
from ..small_recipes import FULL, recipe


def request(photos, out, recipe, **options) -> TrainRequest:
    return TrainRequest(
        recipe=recipe, data=str(photos), out=out, **{"device": "cpu", "num_workers": 0, "resume": False} | options
    )


def interrupt_at(step: int):
    class Interrupting(Silent):
        steps = 0

        def advance(self, count=1, failed=0, note=""):
            self.steps += count
            if self.steps == step:
                raise KeyboardInterrupt

    return Interrupting()


def metrics(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    return train(request(photos, run, recipe()), Silent())


def test_a_run_leaves_a_model_its_figures_its_recipe_and_pictures(finished):
    run = finished.run

    assert read_header(str(run)).step == 6
    assert [line["step"] for line in metrics(run)] == [1, 2, 3, 4, 5, 6]
    assert metrics(run)[-1].keys() >= {"loss", "l1", "grad_norm", "lr", "images_per_s", "loader_wait_share"}
    assert (run / "recipe.yaml").read_text().startswith("model:")
    assert metrics(run)[2]["train_psnr"] < metrics(run)[5]["train_psnr"] and 0 < metrics(run)[5]["train_ssim"] < 1
    for picture_of in (run / "reconstructions" / "step-0000006.png", run / "curves.png"):
        with Image.open(picture_of) as picture:
            assert picture.width > 8 * 64


def test_the_header_holds_the_recipe_and_the_latents_statistics(finished, photos):
    header = read_header(str(finished.checkpoint))

    assert header.recipe["train"]["steps"] == 6
    assert header.statistics.num_images == 24
    assert len(header.statistics.mean) == len(header.statistics.std) == 8
    assert all(std > 0 for std in header.statistics.std)


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(finished, photos, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(request(photos, run, recipe()), interrupt_at(5))  # the last checkpoint is of step 3
    train(request(photos, run, recipe(), resume=True), Silent())

    resumed, whole = load_autoencoder(str(run)), load_autoencoder(str(finished.run))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert [line["loss"] for line in metrics(run)] == [line["loss"] for line in metrics(finished.run)]


def test_training_makes_reconstructions_better_than_the_pca_it_starts_from(photos, tmp_path):
    def psnr_after(steps: int) -> float:
        run = tmp_path / str(steps)
        sections = {"optimizer": {"name": "muon", "lr": 1e-2}, "data": {"resize_max": 64, "flip": 0.0}}
        rarely = {"steps": steps, "checkpoint_every": 1000, "sample_every": 1000, "log_every": 50}
        train(request(photos, run, recipe(train=rarely, **sections)), Silent())
        report = evaluate(EvalRequest(data=str(photos), metrics=("psnr",), models=(str(run),), num_workers=0), Silent())
        return report.evaluations[0].values["psnr"]

    assert psnr_after(120) > psnr_after(1) + 0.5


def test_the_number_of_workers_does_not_change_the_run(finished, photos, tmp_path):
    train(request(photos, tmp_path / "run", recipe(), num_workers=2), Silent())

    assert [line["loss"] for line in metrics(tmp_path / "run")] == [line["loss"] for line in metrics(finished.run)]


def test_an_unreadable_image_is_skipped_and_counted(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "animal" / "bad.jpg").write_bytes(b"no image")
    train(request(tmp_path / "photos", tmp_path / "run", recipe(steps=7)), Silent())

    assert sum(line["num_failed"] for line in metrics(tmp_path / "run")) == 1  # 28 samples: once through 25 images


def test_half_precision_weights_ship_as_such(photos, tmp_path):
    report = train(request(photos, tmp_path / "run", recipe(steps=1, train={"weights_dtype": "float16"})), Silent())

    assert report.checkpoint.stat().st_size < 0.6 * 4 * sum(
        p.numel() for p in load_autoencoder(str(report.checkpoint)).parameters()
    )


def test_an_existing_run_needs_resume(finished, photos):
    with pytest.raises(UsageError, match="exists; continue it with --resume, or give another --out"):
        train(request(photos, finished.run, recipe()), Silent())


def test_a_run_in_the_folder_of_its_images_is_refused(photos, tmp_path):
    source = shutil.copytree(photos, tmp_path / "photos")
    with pytest.raises(UsageError, match=r"photos/thing/run lies in .*/photos, whose next scan .*; give another --out"):
        train(request(source, source / "thing" / "run", recipe()), Silent())
    assert not (source / "thing" / "run").exists()


def test_resuming_what_never_started_is_refused(photos, tmp_path):
    with pytest.raises(NotFoundError, match=r"has no state.safetensors to resume from"):
        train(request(photos, tmp_path / "run", recipe(), resume=True), Silent())


def test_resuming_with_another_recipe_names_the_difference(finished, photos):
    with pytest.raises(CheckpointError, match=r"begun otherwise: optimizer.lr was 0.001, is 0.002"):
        train(request(photos, finished.run, recipe(optimizer={"lr": 2e-3}), resume=True), Silent())


def test_missing_weights_stop_the_run_before_the_first_step(photos, tmp_path):
    wanted = recipe(loss={"perceptual": {"network": "squeezenet1_1"}})
    with pytest.raises(WeightsError, match="--weights squeezenet1_1=PATH"):
        train(request(photos, tmp_path / "run", wanted, weights={"squeezenet1_1": tmp_path / "none"}), Silent())

    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_resuming_on_other_images_is_refused(finished, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "animal" / "0.jpg").unlink()
    with pytest.raises(CheckpointError, match=r"begun otherwise: source was .*, is "):
        train(request(tmp_path / "photos", finished.run, recipe(), resume=True), Silent())


@pytest.fixture(scope="module")
def with_everything(photos, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "full"
    train(request(photos, run, recipe(**FULL)), Silent())
    return run


def test_the_full_objective_logs_each_of_its_parts(with_everything):
    lines = metrics(with_everything)

    assert lines[0].keys() >= {"loss", "l1", "class_token", "masked_patch", "teacher_entropy", "feature_spread"}
    assert lines[0].keys().isdisjoint({"generator", "discriminator"})
    assert lines[-1].keys() >= {"generator", "adaptive_weight", "discriminator", "discriminator_accuracy"}
    assert all(-1 <= line["gradient_cosine"] <= 1 for line in lines)


def test_what_ships_is_the_autoencoder_without_heads_teacher_or_discriminator(with_everything, finished):
    with safe_open(with_everything / "model.safetensors", "pt") as full, safe_open(finished.checkpoint, "pt") as plain:
        assert set(full.keys()) == {name for name in set(plain.keys()) if not name.startswith("shortcut")}


def test_the_full_objective_resumes_to_the_bit(with_everything, photos, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(request(photos, run, recipe(**FULL)), interrupt_at(5))
    train(request(photos, run, recipe(**FULL), resume=True), Silent())

    with (
        safe_open(run / "state.safetensors", "pt") as ours,
        safe_open(with_everything / "state.safetensors", "pt") as theirs,
    ):
        assert {name.partition(".")[0] for name in set(ours.keys())} >= {"model", "average", "teacher", "centers"}
        for name in set(theirs.keys()):
            assert torch.equal(ours.get_tensor(name), theirs.get_tensor(name)), name


def test_one_photograph_is_learnt_by_heart(photos, tmp_path):
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(photos / "thing" / "0.jpg", one)
    once = {"steps": 250, "batch_size": 1, "log_every": 250, "checkpoint_every": 250, "sample_every": 250}
    settings = {"model": {"latent_channels": 64, "width": 64, "num_heads": 4}, "data": {"resize_max": 64, "flip": 0.0}}
    optimizer = {"lr": 5e-3, "min_lr": 0.0}
    train(
        request(one, tmp_path / "run", recipe(train={**once, "ema_decay": 0.9}, optimizer=optimizer, **settings)),
        Silent(),
    )

    assert metrics(tmp_path / "run")[-1]["train_psnr"] > 35


def test_validation_images_are_measured_in_place_of_the_training_images(photos, tmp_path):
    train(request(photos / "thing", tmp_path / "run", recipe(steps=1), val=str(photos / "person")), Silent())

    line = metrics(tmp_path / "run")[-1]
    assert {"val_psnr", "val_ssim"} <= line.keys() and "train_psnr" not in line


def test_a_stream_of_tars_trains_and_goes_on(photos, tmp_path, make_tar_of):
    tar = make_tar_of(photos, tmp_path / "0.tar")
    streaming = recipe(data={"shuffle_buffer": 8})
    with pytest.raises(KeyboardInterrupt):
        train(request(tar, tmp_path / "run", streaming), interrupt_at(5))
    said = Heard()
    train(request(tar, tmp_path / "run", streaming, resume=True), said)

    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    assert any("the stream resumes at its unit" in sentence for sentence in said.said)


def test_listed_tars_stream_without_those_that_may_be_missing(photos, tmp_path, make_tar_of):
    make_tar_of(photos, tmp_path / "0.tar")
    (tmp_path / "tars.txt").write_text("0.tar\n1.tar\n")
    streaming = recipe(steps=1, data={"shuffle_buffer": 8})
    fields = SampleFields(allow_missing=1)
    train(request(tmp_path / "tars.txt", tmp_path / "run", streaming, fields=fields), Silent())
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"precision": "bf16"}, "products are computed in bf16, and those that stay float32 in TF32 ({}: high)"),
        ({"precision": "fp32"}, "products are computed in float32 ({}: highest)"),
    ],
)
def test_a_run_on_a_gpu_says_how_products_are_computed(keys, sentence):
    assert precision_words(recipe(train=keys)) == sentence.format("train.float32_matmul_precision")


def test_a_piped_stream_needs_images_to_measure_on(photos, tmp_path, make_tar_of):
    pipe = f"pipe:cat {make_tar_of(photos, tmp_path / '0.tar')}"
    with pytest.raises(UsageError, match="cannot serve for validation; give images with --val"):
        train(request(pipe, tmp_path / "run", recipe()), Silent())

    with pytest.raises(UsageError, match=r"--image: pipe:.* is a stream, which has nothing to choose by it; omit it"):
        train(request(pipe, tmp_path / "run", recipe(), val=str(photos), fields=SampleFields(image="jpg")), Silent())

    train(request(pipe, tmp_path / "piped", recipe(steps=2, data={"shuffle_buffer": 8}), val=str(photos)), Silent())
    assert read_header(str(tmp_path / "piped")).step == 2


@pytest.fixture
def make_tar_of():
    def make(folder, path) -> str:
        with tarfile.open(path, "w") as tar:
            for number, image in enumerate(sorted(folder.rglob("*.jpg"))):
                tar.add(image, f"{number:04d}.jpg")
        return str(path)

    return make


@pytest.fixture
def streamed(monkeypatch) -> list[int]:
    """The numbers of the samples that runs have been given from a stream."""
    numbers: list[int] = []

    def spy(*arguments):
        for batch in stream_training_batches(*arguments):
            numbers.extend(batch.samples.tolist())
            yield batch

    monkeypatch.setattr(train_job, "stream_training_batches", spy)
    return numbers


@pytest.mark.parametrize("form", ["s3", "hub", "tar.zst"])
def test_what_is_read_in_order_is_streamed_and_resumed_by_what_is_read_together(
    form, photos, tmp_path, write_source, put, streamed
):
    samples = [Sample("cat", path.name, path.read_bytes()) for path in sorted((photos / "thing").iterdir())]
    source = write_source("parquet" if form == "s3" else form, samples[:4], samples[4:])
    if form == "s3":
        source = f"{put({path.name: path.read_bytes() for path in tmp_path.glob('source/*')})}/*.parquet"
    settings = recipe(data={"shuffle_buffer": 1}, train={"steps": 4, "checkpoint_every": 2, "sample_every": 4})
    with pytest.raises(KeyboardInterrupt):
        train(request(source, tmp_path / "run", settings), interrupt_at(3))
    first = streamed.copy()
    streamed.clear()

    report = train(request(source, tmp_path / "run", settings, resume=True), Silent())
    assert report.steps == 4 and report.figures["train_psnr"] > 0
    # The checkpoint is of step 2, after 8 images; the file or row group of the last of them comes again.
    begun_at = first.index(streamed[0])
    assert 4 <= begun_at < 8 and streamed[: 12 - begun_at] == first[begun_at:12]
