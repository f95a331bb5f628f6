"""What the README shows is what happens."""

import re
import shlex
from pathlib import Path

import pytest

import tcae_cli.cli
from tcae_cli.jobs.encode import encode_dataset
from tcae_cli.report import EncodeRequest, Silent

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.fixture
def store(photos, small_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = EncodeRequest(source=str(photos), store=Path("out.zarr"), model=str(small_checkpoint), num_workers=0)
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


def test_every_command_shown_is_one_the_command_line_takes():
    shown = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    commands = [line for line in shown if re.search(r"(^|-m )tcae(_cli)? ", line)]
    assert len(commands) > 8
    for line in commands:
        _, command, *arguments = shlex.split(line[re.search(r"tcae(_cli)? ", line).start() :])
        context = tcae_cli.cli.tcae.get_command(None, command).make_context(command, arguments)
        assert context.params


def test_every_file_named_is_there():
    text = README.read_text()
    named = re.findall(r"\]\((?!http)([^)]+)\)", text) + re.findall(r"`?(recipes/[\w.-]+\.yaml)", text)
    assert len(named) > 2
    for path in named:
        assert (README.parent / path).exists(), path
