"""What the README shows is what happens."""

import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tcae_cli.cli
from tcae_cli.jobs.encode import encode_dataset
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Silent

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def commands_of(block: str) -> list[str]:
    return [line.partition(" #")[0].strip() for line in block.splitlines()]


@pytest.fixture
def store(photos, small_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = EncodeRequest(source=str(photos), store="out.zarr", model=str(small_checkpoint), num_workers=0)
    encode_dataset(request, Silent())


@pytest.mark.usefixtures("store")
@pytest.mark.filterwarnings("ignore::UserWarning:zarr")  # plain zarr does not know .tcae
def test_a_store_is_read_without_tcae(capsys):
    snippet = next(block for block in blocks("python") if "import zarr" in block)
    lines = [line for line in snippet.splitlines() if line]
    names: dict = {}

    assert "tcae" not in "".join(line for line in lines if "import" in line)
    assert len([line for line in lines if "import" not in line]) <= 10
    exec(snippet, names)
    assert names["train_ready"].shape == (4, 8, 2, 2)
    assert abs(names["train_ready"]).max() < 20
    assert len(names["keys"]) == 24
    assert "(4, 8, 2, 2)" in capsys.readouterr().out


@pytest.mark.usefixtures("store")
def test_the_reader_of_tcae_does_what_is_shown():
    snippet = next(block for block in blocks("python") if "LatentStore" in block)
    names: dict = {}
    exec(snippet.replace("[5, 900, 17]", "[5, 20, 17]"), names)
    assert names["batch"].shape == (3, 8, 2, 2)


@pytest.mark.usefixtures("store")
def test_batches_for_a_trainer_are_as_shown():
    snippet = next(block for block in blocks("python") if "LatentDataset" in block)
    names: dict = {}
    exec(snippet.replace("256,", "8,"), names)
    assert names["latents"].shape == (8, 8, 2, 2) and names["labels"].shape == (8,)
    assert abs(names["latents"]).max() < 20


def test_every_command_shown_is_one_the_command_line_takes():
    shown = [line for block in blocks("sh") for line in commands_of(block)]
    commands = [line for line in shown if re.search(r"(^|-m | )tcae(_cli)? ", line) and not line.startswith("git")]
    assert len(commands) > 20
    for line in commands:
        _, command, *arguments = shlex.split(line[re.search(r"tcae(_cli)? ", line).start() :])
        context = tcae_cli.cli.tcae.get_command(None, command).make_context(command, arguments)
        assert context.params


def test_the_section_on_stopping_repairing_growing_and_moving_is_true_line_by_line(photos, tmp_path):
    """With real processes, a kill -9 for the interruption, and images put right and put in where it says so."""
    block = next(block for block in blocks("sh") if "--retry-failed" in block and "verify" in block)
    shutil.copytree(photos, tmp_path / "imgs")
    broken = tmp_path / "imgs" / "person" / "3.jpg"
    good_bytes = broken.read_bytes()
    broken.write_bytes(good_bytes[:600])
    said = []
    for number, line in enumerate(commands_of(block)):
        if "--retry-failed" in line:
            broken.write_bytes(good_bytes)
        if "--append" in line:
            shutil.copy(photos / "person" / "4.jpg", tmp_path / "imgs" / "person" / "new.jpg")
        words = shlex.split(line)
        command = [sys.executable, "-m", "tcae_cli", *words[1:]] if words[0] == "tcae" else words
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
            if number == 0:
                wait_for(tmp_path / "out.zarr" / "zarr.json")
                run.kill()
            stdout, stderr = run.communicate(timeout=120)
            said.append((run.returncode, stdout + stderr))
    codes = [code for code, _ in said]
    assert codes == [-9, 3, 0, 0, 0, 0, 0], said
    assert "23 rows ok, 1 failed" in said[1][1] and "person/3.jpg" in said[1][1]
    assert "person/3.jpg" in said[2][1]
    assert "24 rows ok, 0 failed" in said[3][1] and "1 images in" in said[3][1]
    assert "1 new (person/new.jpg)" in said[4][1] and "25 rows ok, 0 failed" in said[4][1]
    assert "25" in said[6][1]


def wait_for(path: Path) -> None:
    patience_ends_at = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < patience_ends_at
        time.sleep(0.01)


def test_every_file_named_is_there():
    text = README.read_text()
    named = re.findall(r"\]\((?!http)([^)]+)\)", text) + re.findall(r"`?(recipes/[\w.-]+\.yaml)", text)
    assert len(named) > 2
    for path in named:
        assert (README.parent / path).exists(), path
