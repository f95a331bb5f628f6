import json
import shutil

import pytest
import torch
from PIL import Image

from tcae_cli.checkpoint import load_autoencoder, read_header
from tcae_cli.errors import CheckpointError, NotFoundError, UsageError, WeightsError
from tcae_cli.jobs.evaluate import evaluate
from tcae_cli.jobs.train import train
from tcae_cli.recipe.schema import Recipe
from tcae_cli.report import EvalRequest, Silent, TrainRequest

MODEL = {"image_size": 64, "patch_size": 8, "latent_channels": 8, "width": 32, "depths": [1, 1], "num_heads": 2}


def recipe(steps: int = 6, **sections) -> Recipe:
    settings = {
        "model": {**MODEL, "pixel_shortcut": True},
        "data": {"resize_min": 64, "resize_max": 96},
        "loss": {"perceptual": None},
        "optimizer": {"lr": 1e-3},
        "train": {"steps": steps, "batch_size": 4, "log_every": 1, "checkpoint_every": 3, "sample_every": 3},
    }
    for name, values in sections.items():
        settings[name] = {**settings[name], **values}
    return Recipe.model_validate(settings)


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
    with Image.open(run / "reconstructions" / "step-0000006.png") as picture:
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
        report = evaluate(EvalRequest(data=str(photos), metrics=("psnr",), model=str(run), num_workers=0), Silent())
        return report.values["psnr"]

    assert psnr_after(120) > psnr_after(1) + 0.5


def test_the_number_of_workers_does_not_change_the_run(finished, photos, tmp_path):
    train(request(photos, tmp_path / "run", recipe(), num_workers=2), Silent())

    assert [line["loss"] for line in metrics(tmp_path / "run")] == [line["loss"] for line in metrics(finished.run)]


def test_an_unreadable_image_is_left_out_and_counted(photos, tmp_path):
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


def test_resuming_what_never_started_is_refused(photos, tmp_path):
    with pytest.raises(NotFoundError, match=r"has no state.safetensors to resume from"):
        train(request(photos, tmp_path / "run", recipe(), resume=True), Silent())


def test_resuming_with_another_recipe_names_the_difference(finished, photos):
    with pytest.raises(CheckpointError, match=r"another recipe: optimizer.lr was 0.001, is 0.002"):
        train(request(photos, finished.run, recipe(optimizer={"lr": 2e-3}), resume=True), Silent())


def test_missing_weights_stop_the_run_before_the_first_step(photos, tmp_path):
    wanted = recipe(loss={"perceptual": {"network": "squeezenet1_1"}})
    with pytest.raises(WeightsError, match="--weights squeezenet1_1=PATH"):
        train(request(photos, tmp_path / "run", wanted, weights={"squeezenet1_1": tmp_path / "none"}), Silent())

    assert not (tmp_path / "run" / "metrics.jsonl").exists()
