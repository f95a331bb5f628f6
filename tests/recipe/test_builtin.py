"""The script that trains the built-in model replaces it by a better one only."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from tcae_cli.autoencoders import tcae
from tcae_cli.autoencoders.tcae import read_header

from .conftest import imported


@pytest.fixture(scope="module")
def builtin():
    with imported(Path(__file__).parents[2] / "recipes" / "builtin.py") as module:
        yield module


def test_the_builtin_model_is_replaced_by_a_better_one_and_by_no_other(
    builtin, photos, small_checkpoint, tmp_path, monkeypatch
):
    for part in ("train", "val"):
        shutil.copytree(photos, tmp_path / "photos" / part)
    target = tmp_path / "builtin" / "tcae-tiny.safetensors"
    target.parent.mkdir()
    shutil.copy(small_checkpoint, target)  # of random weights
    for module in (tcae, builtin):
        monkeypatch.setattr(module, "BUILTIN", target.parent)

    def run():
        arguments = [str(tmp_path / "photos"), str(tmp_path / "out"), "--cpu", "--small"]
        done = CliRunner().invoke(builtin.main, arguments)
        assert done.exit_code == 0, done.output
        return done.stdout

    said = run()
    new = tmp_path / "out" / "tcae-tiny" / "model.safetensors"
    assert target.read_bytes() == new.read_bytes()
    assert f"replaced {target}: 4 steps, encoder {read_header(str(new)).encoder_hash[:12]}" in said

    said = run()  # the run is finished, and compared with itself
    assert "the built-in model stays, because the new one is not better in both" in said


def test_a_trial_says_how_fast_training_is(builtin, photos, tmp_path, monkeypatch):
    shutil.copytree(photos, tmp_path / "photos" / "train")
    monkeypatch.setattr(builtin, "TRIAL_STEPS", 3)

    assert builtin.measure_rate(builtin.TOY, tmp_path / "photos", tmp_path / "trial", "cpu") > 0
