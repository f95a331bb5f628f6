"""The command in surroundings that are not as usual: another locale, few open files."""

import os
import subprocess
import sys

import pytest
from PIL import Image

from tcae_cli.store.reader import LatentStore


@pytest.fixture
def run(small_checkpoint, tmp_path):
    """Runs `tcae encode-dataset` in a process of its own; gives exit code and stderr."""

    def start(*options: str, before: str = "", **environment: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "tcae_cli", "encode-dataset", "photos", "store.zarr", "--device", "cpu"]
        command += ["--model", str(small_checkpoint), *options]
        shell = ["bash", "-c", f'{before} exec "$@"', "bash", *command]
        done = subprocess.run(
            shell, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=200
        )
        return done.returncode, done.stderr

    return start


def test_names_and_captions_are_the_same_in_a_locale_of_ascii(run, tmp_path):
    (tmp_path / "photos" / "Möwe").mkdir(parents=True)
    Image.new("RGB", (70, 70), "teal").save(tmp_path / "photos" / "Möwe" / "weiß.jpg")
    (tmp_path / "photos" / "Möwe" / "weiß.txt").write_text("eine Möwe ☁", encoding="utf-8")
    code, stderr = run("--workers", "1", LC_ALL="POSIX", PYTHONUTF8="0")

    assert code == 0, stderr
    store = LatentStore(tmp_path / "store.zarr")
    assert (store.keys([0]), store.captions([0])) == (["Möwe/weiß.jpg"], ["eine Möwe ☁"])
    assert store.spec.source.class_names == ["Möwe"]


def test_too_few_open_files_are_one_sentence_and_as_many_as_it_names_are_enough(run, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(20):
        Image.new("RGB", (70, 70), (9 * number, 0, 99)).save(tmp_path / "photos" / f"{number}.png")
    code, stderr = run("--workers", "1", before="ulimit -n 30;")
    assert code == 1 and "Traceback" not in stderr
    assert "Error: decoding in 1 processes takes 80 open files, and only 30 are allowed; raise" in stderr

    code, stderr = run("--workers", "1", before=f"{stderr.strip().rpartition(' with ')[2]};")
    assert code == 0, stderr
