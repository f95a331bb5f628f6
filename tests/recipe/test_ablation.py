"""The ablation's script measures, concludes, and resumes where it stopped."""

import io
import json
import math
import shutil
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from tcae_cli.autoencoders.tcae import read_header
from tcae_cli.jobs.evaluate import evaluate
from tcae_cli.reports.evaluation import EvalRequest
from tcae_cli.reports.progress import Silent

from .conftest import imported


@pytest.fixture(scope="module")
def ablation():
    with imported(Path(__file__).parents[2] / "recipes" / "ablation.py") as module:
        yield module


@pytest.fixture(scope="module")
def data(photos, tmp_path_factory) -> Path:
    """24 shuffled photographs of three classes: 12 in six tars for training, 12 in one tar for measuring."""
    folder = tmp_path_factory.mktemp("small")
    paths = sorted(photos.rglob("*.jpg"), key=lambda path: (path.stem, path.parent.name))
    names = sorted({path.parent.name for path in paths})
    shards = {f"train-{shard:04d}.tar": paths[2 * shard : 2 * shard + 2] for shard in range(6)}
    for name, members in {**shards, "val-0000.tar": paths[12:]}.items():
        with tarfile.open(folder / name, "w") as tar:
            for path in members:
                key = f"{path.parent.name}_{path.stem}"
                add(tar, f"{key}.jpg", path.read_bytes())
                add(tar, f"{key}.cls", str(names.index(path.parent.name)).encode())
    return folder


def add(tar, name, content):
    header = tarfile.TarInfo(name)
    header.size = len(content)
    tar.addfile(header, io.BytesIO(content))


def sources(data):
    return f"{data}/train-{{0000..0005}}.tar", f"{data}/val-0000.tar"


def run(ablation, data, out, *options):
    return CliRunner().invoke(ablation.main, [str(data), str(out), "--cpu", "--small", *options])


def test_a_model_is_measured_by_its_reconstructions_and_by_probes(ablation, data, small_checkpoint):
    figures = ablation.measure(str(small_checkpoint), sources(data), "cpu")
    request = EvalRequest(
        data=sources(data)[1], metrics=("psnr", "ssim"), models=(str(small_checkpoint),), num_workers=0, device="cpu"
    )
    alone = evaluate(request, Silent()).evaluations[0].values

    assert {name: figures[name] for name in ("psnr", "ssim")} == pytest.approx(alone)
    assert figures["probe-chance"] == pytest.approx(1 / 3)
    assert figures["probe-tokens"] > 2 / 3  # three photographs, even through random weights
    assert figures["structural-loss"] == pytest.approx(1 - figures["probe-latents"] / figures["probe-tokens"])
    assert 1 <= figures["effective-rank"] <= 8


@pytest.fixture(scope="module")
def finished(ablation, data, tmp_path_factory) -> Path:
    """Return the folder of four arms, trained for one step."""
    out = tmp_path_factory.mktemp("out")
    done = run(ablation, data, out, "--steps", "1", "--seeds", "1")
    assert done.exit_code == 0, done.output
    assert done.output.count("training ") == 4
    return out


def test_four_arms_are_trained_measured_and_not_trained_again(ablation, data, finished):
    measured = json.loads((finished / "ablation.json").read_text())
    assert measured.keys() == {"baseline-0", "stc-0", "ssl-0", "stc-ssl-0"}
    written = {path: path.stat().st_mtime_ns for path in finished.glob("*/model.safetensors")}

    again = run(ablation, data, finished, "--steps", "1", "--seeds", "1")

    assert again.exit_code == 0 and "training " not in again.output
    assert {path: path.stat().st_mtime_ns for path in finished.glob("*/model.safetensors")} == written
    assert json.loads((finished / "ablation.json").read_text()) == measured
    rows = [line for line in again.stdout.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == ["| arm", "| baseline", "| stc", "| ssl", "| stc-ssl"]
    assert f"{measured['stc-0']['psnr']:.3f} (0.000)" in rows[2]
    assert again.stdout.count("not shown, one seed has no spread") == 5


def test_what_is_set_of_self_distillation_leaves_the_arms_without_it_alone(ablation):
    recipes = {arm: ablation.recipe_of(arm, 3, 7, ablation.TOY) for arm in ablation.ARMS}

    with_it = {arm for arm, recipe in recipes.items() if recipe.loss.self_distillation is not None}
    assert with_it == {"ssl", "stc-ssl"}
    assert all(recipes[arm].loss.self_distillation.num_prototypes == 16 for arm in with_it)
    assert {arm for arm, recipe in recipes.items() if recipe.model.staged} == {"stc", "stc-ssl"}
    assert {(recipe.train.seed, recipe.train.steps, recipe.model.width) for recipe in recipes.values()} == {(3, 7, 32)}


def test_figures_of_a_run_that_was_removed_are_taken_anew(ablation, data, finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "stc-0")
    measured = json.loads((out / "ablation.json").read_text())
    (out / "ablation.json").write_text(json.dumps(measured | {"stc-0": measured["stc-0"] | {"psnr": -1.0}}))

    again = run(ablation, data, out, "--steps", "1", "--seeds", "1")

    assert again.exit_code == 0 and again.output.count("training ") == 1
    assert json.loads((out / "ablation.json").read_text())["stc-0"]["psnr"] > 0


def test_a_run_of_another_recipe_is_refused_in_one_sentence_and_its_figures_stay(ablation, data, finished):
    measured = (finished / "ablation.json").read_bytes()
    refused = run(ablation, data, finished, "--steps", "2", "--seeds", "1")

    assert refused.exit_code == 1 and (finished / "ablation.json").read_bytes() == measured
    assert "Error:" in refused.output and "begun otherwise: train.steps was 1, is 2" in refused.output


def test_images_may_stay_on_the_device(ablation, data, tmp_path):
    done = run(ablation, data, tmp_path / "out", "--on-device", "--seeds", "1")

    assert done.exit_code == 0, done.output
    measured = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert measured.keys() == {"baseline-0", "stc-0", "ssl-0", "stc-ssl-0"}
    assert done.stdout.count("not shown, one seed has no spread") == 5

    # On another machine the figures are enough.
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "out" / "ablation.json", tmp_path / "other")
    again = run(ablation, data, tmp_path / "other", "--on-device", "--seeds", "1")
    assert "training " not in again.output and again.stdout == done.stdout


def test_a_command_whose_time_is_over_prints_what_is_known(ablation, data, finished):
    done = run(ablation, data, finished, "--steps", "1", "--seeds", "2", "--minutes", "0")

    assert done.exit_code == 0 and "training " not in done.output
    measured = json.loads((finished / "ablation.json").read_text())
    assert f"{measured['stc-0']['psnr']:.3f} (0.000)" in done.stdout
    assert "4 of 8 runs are finished; repeat the command to continue" in done.stdout
    assert "shown" not in done.stdout


def test_cells_without_a_finished_run_are_empty(ablation, data, tmp_path):
    done = run(ablation, data, tmp_path / "out", "--minutes", "0")

    assert done.exit_code == 0 and "| stc-ssl |  |  |  |  |  |  |" in done.stdout


def test_a_run_on_the_device_stops_in_time_and_resumes_to_the_same_model(ablation, data, tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "SAVE_EVERY", 1)
    recipe = ablation.recipe_of("stc-ssl", 0, 2, ablation.TOY)

    def train(name, ends_at):
        plan = ablation.Plan(sources(data), tmp_path, "cpu", on_device=True, ends_at=ends_at)
        ablation.train_arm(plan, recipe, tmp_path / name)
        return read_header(str(tmp_path / name))

    whole = train("whole", math.inf)
    assert train("parts", ends_at=0).step == 1
    resumed = train("parts", ends_at=math.inf)
    assert whole.step == resumed.step == 2
    assert (whole.encoder_hash, whole.decoder_hash) == (resumed.encoder_hash, resumed.decoder_hash)


def arms(values, beside, *, figure="probe-latents", probe=0.3):
    """Return figures of two seeds of "stc-ssl" and of "ssl", for a chance of 0.1."""
    steady = {"probe-tokens": [probe, probe], "probe-latents": [probe, probe], "probe-chance": [0.1, 0.1]}
    return {"stc-ssl": {**steady, figure: values}, "ssl": {**steady, figure: beside}}


@pytest.mark.parametrize(
    ("values", "beside", "says"),
    [
        ([0.40, 0.42], [0.30, 0.32], "reproduced (+0.100, spread 0.020)"),
        ([0.30, 0.32], [0.40, 0.42], "refuted (-0.100, spread 0.020)"),
        ([0.30, 0.40], [0.28, 0.32], "not shown, a difference of +0.050 at a spread of 0.100"),
        ([0.40, 0.40], [0.20, 0.19], "not shown, probe-latents of ssl is 0.195, chance 0.100"),
        ([0.40], [0.30], "not shown, one seed has no spread"),
    ],
)
def test_a_direction_is_shown_only_above_twice_chance_and_beyond_the_spread(ablation, values, beside, says):
    higher = ablation.Direction("", "probe-latents", "stc-ssl", "ssl", +1)

    assert ablation.verdict(higher, arms(values, beside)) == says


def test_a_loss_that_falls_is_reproduced_only_where_both_probes_have_learnt(ablation):
    lower = ablation.Direction("", "structural-loss", "stc-ssl", "ssl", -1)
    figures = arms([0.5, 0.5], [0.7, 0.72], figure="structural-loss")

    assert ablation.verdict(lower, figures) == "reproduced (-0.210, spread 0.020)"
    figures["ssl"]["probe-latents"] = [0.15, 0.15]
    assert ablation.verdict(lower, figures) == "not shown, probe-latents of ssl is 0.150, chance 0.100"
