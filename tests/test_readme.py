"""What README and docs show is what happens: every command line is run, or says what it needs that a test has not."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pytest
import torch
import zarr

from tcae_cli.autoencoders.families import FAMILIES
from tcae_cli.cli import main, tcae
from tcae_cli.evaluation.metrics.registry import METRICS
from tcae_cli.exports.registry import FORMATS
from tcae_cli.jobs.evaluate import evaluate
from tcae_cli.jobs.export import export_store
from tcae_cli.recipe.load import dump_recipe
from tcae_cli.reports.evaluation import EvalRequest
from tcae_cli.reports.export import ExportRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.sources.registry import KINDS
from tcae_cli.sources.scan import open_source
from tcae_cli.store.codecs.registry import CODECS
from tcae_cli.store.reader import LatentStore

from .hub_server import TOKEN
from .pictures import write_tar, write_zip
from .small_recipes import recipe
from .tables import parquet, save_arrow, table, with_paths, write_parquet

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
NEEDS = re.compile(r"needs: .*\b(gpu|network|several machines)\b")
RUN_BY = re.compile(r"run by: (test_\w+)")
OPTIONS_OF_OTHERS = {
    *("--nnodes", "--node-rank", "--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint"),  # torchrun
    *("--master-addr", "--master-port"),
    *("--ntasks", "--gpus-per-task", "--kill-on-bad-exit"),  # srun
    *("--num-samples", "--steps", "--repo-type"),  # train_dit.py, ablation.py, hf
    *("--cpu", "--small"),  # make gpu
}
MADE_EARLIER = {  # what a page may use that a reader has made before
    "out.zarr": "tcae encode-dataset ./imgs out.zarr",
    "flipped.zarr": "tcae encode-dataset ./imgs flipped.zarr --flip",
    "runs/mine": "tcae train recipes/tiny.yaml --data ./imgs --out runs/mine",
    "./recon": "tcae decode out.zarr ./recon",
}


class Block(NamedTuple):
    """A fenced block of a page, and the HTML comment before it."""

    comment: str
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Its command lines, without their comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for each in lines if (line := each.partition("# ")[0].strip())]


def blocks(page: Path, language: str) -> list[Block]:
    found = re.findall(r"(?:<!-- ([^>]*) -->\n)?```(\w+)\n(.*?)```", page.read_text(), re.DOTALL)
    return [block for each in found if (block := Block(*each)).language == language]


def commands_in(line: str) -> Iterator[list[str]]:
    """The command of tcae in a line, as words, however it is started."""
    if found := re.search(r"(^|-m | )tcae(_cli)? ", line):
        yield shlex.split(line[found.end() :])


@pytest.fixture(scope="session")
def reader(photos, tmp_path_factory) -> Path:
    """A folder with what a reader has to begin with, at test size."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(photos, folder / "imgs")
    shutil.copytree(photos / "person", folder / "val" / "person")
    paths = sorted(folder.glob("imgs/*/*.jpg"))
    (folder / "list.txt").write_text("".join(f"{path.relative_to(folder)}\n" for path in paths))
    for suffix, caption in (("csv", "caption"), ("tsv", "text"), ("jsonl", "prompt")):
        rows = [(path.relative_to(folder).as_posix(), path.parent.name, f"a {path.parent.name}") for path in paths]
        (folder / f"captions.{suffix}").write_text(table(["image", "label", caption], rows, suffix))
    (folder / "names.txt").write_text("animal\nperson\nthing\n")
    (folder / "shards").mkdir()
    for number in range(4):
        members = {f"{path.parent.name}-{path.name}": path.read_bytes() for path in paths[number::4]}
        write_tar(folder / "shards" / f"{number:04d}.tar", members)
    (folder / "tars.txt").write_text("".join(f"shards/{number:04d}.tar\n" for number in (2, 0)))
    jpegs = {path.stem: path.read_bytes() for path in paths[:8]}
    write_tar(folder / "photos.tar.gz", {f"{name}.jpg": data for name, data in jpegs.items()})
    members = {f"00000/img{number:08d}.jpg": path.read_bytes() for number, path in enumerate(paths[:8])}
    labels = json.dumps({"labels": [[name, number % 3] for number, name in enumerate(members)]})
    write_zip(folder / "edm2.zip", members | {"dataset.json": labels.encode()})
    np.savez(folder / "samples.npz", np.zeros((3, 64, 64, 3), np.uint8))
    masked = [(f"{name}.{end}", data) for name, data in jpegs.items() for end in ("jpg", "seg.png")]
    write_tar(folder / "masked.tar", masked)
    _write_tables(folder, paths)
    (folder / "recipes").mkdir()
    (folder / "recipes" / "tiny.yaml").write_text(dump_recipe(recipe(steps=2)))
    return folder


def _write_tables(folder: Path, paths: list[Path]) -> None:
    """Write the images as Parquet and as the datasets library saves them, whole and in splits."""
    for number in range(2):
        mine = paths[number::2]
        columns = {"species": [path.parent.name for path in mine], "text": [f"a {path.parent.name}" for path in mine]}
        columns["photo"] = with_paths({path.relative_to(folder).as_posix(): path.read_bytes() for path in mine})
        write_parquet(folder / "data" / f"train-0000{number}-of-00002.parquet", columns, rows_per_group=5)
    images = with_paths({path.name: path.read_bytes() for path in paths[:8]})
    for name in ("saved", "saved-splits/train", "saved-splits/test"):
        save_arrow(folder / name, {"image": images})
    (folder / "saved-splits" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')


@pytest.fixture
def hub_of_the_pages(hub, photos, monkeypatch) -> None:
    """The datasets on the Hugging Face Hub that the pages name, and a reader, "me", who is logged in."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.owners.add("me")
    images = [path.read_bytes() for path in sorted(photos.rglob("*.jpg"))]
    files = {f"plain_text/{split}-00000-of-00001.parquet": parquet(images) for split in ("train", "test")}
    hub.put("uoft-cs/cifar10", files)


@pytest.fixture
def run_line(reader, hub_of_the_pages, small_checkpoint, tmp_path, monkeypatch, capsys) -> Callable[[str], None]:
    """Runs a line where the reader is; a command of tcae in this process, with a small model for the built-in one."""
    folder = tmp_path / "reader"
    shutil.copytree(reader, folder)
    monkeypatch.chdir(folder)

    def run(line: str) -> None:
        words = shlex.split(line)
        for name in set(words) & set(MADE_EARLIER) - {_made_by(words)}:
            if not Path(name).exists():
                run(MADE_EARLIER[name])
        if words[0] == "tcae":
            monkeypatch.setattr(sys, "argv", ["tcae", *_at_test_size(words[1:], str(small_checkpoint))])
            with pytest.raises(SystemExit) as left:
                main()
            assert left.value.code == 0, (line, capsys.readouterr())
        elif words[0] == "torchrun":
            subprocess.run([sys.executable, "-m", "torch.distributed.run", *words[1:]], check=True)
        else:
            assert words[0] == "mv", f"{line}: neither run by this test nor marked as needing something"
            subprocess.run(words, check=True)

    return run


def _at_test_size(words: list[str], small_model: str) -> list[str]:
    command = _command(words[0])
    given = command.make_context(words[0], words[1:]).params
    words = [small_model if word == "tcae-tiny" else word for word in words]
    if "num_workers" in given and "--workers" not in words:
        words += ["--workers", "0"]
    if words[0] == "encode-dataset" and given["model"] == "tcae-tiny":
        words += ["--model", small_model]
    if words[0] == "eval" and not (given["models"] or given["store"] or given["reconstructions"]):
        words += [small_model]
    return words


def _made_by(words: list[str]) -> str:
    """What a command makes: it need not be there before."""
    if "--out" in words:
        return words[words.index("--out") + 1]
    makes = words[1] in ("encode-dataset", "decode", "export") and "--update-metadata" not in words
    return words[3] if makes else ""


def _command(name: str) -> click.Command:
    command = tcae.get_command(click.Context(tcae), name)
    assert command, name
    return command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_command_line_runs_or_says_what_it_needs(page, run_line):
    for block in blocks(page, "sh"):
        run_by = RUN_BY.match(block.comment)
        assert run_by is None or run_by[1] in globals()
        for line in block.lines if not run_by and not NEEDS.match(block.comment) else ():
            run_line(line)


def test_each_command_shown_is_one_the_command_line_takes():
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.lines]
    names = tcae.list_commands(click.Context(tcae))
    lines += [line for name in names for _, line in getattr(_command(name), "examples", ())]
    commands = [words for line in lines for words in commands_in(line)]
    assert len(commands) > 40
    for name, *arguments in commands:
        assert _command(name).make_context(name, arguments).params


def test_each_option_named_is_an_option():
    names = tcae.list_commands(click.Context(tcae))
    parameters = [each for name in names for each in _command(name).params]
    options = {"--help"} | {option for each in parameters for option in (*each.opts, *each.secondary_opts)}
    for page in PAGES:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page.read_text()))
        assert named <= options | OPTIONS_OF_OTHERS, page


@pytest.fixture
def store(photos, encode, tmp_path, monkeypatch) -> None:
    """The working directory has a store, out.zarr."""
    monkeypatch.chdir(tmp_path)
    encode(photos, "out.zarr")


def snippet(page: str, word: str) -> str:
    return next(block.text for block in blocks(ROOT / page, "python") if word in block.text)


@pytest.mark.usefixtures("store")
def test_a_store_is_read_without_tcae(capsys):
    code = snippet("docs/reading.md", "import zarr")
    lines = [line for line in code.splitlines() if line]
    names: dict = {}

    assert "tcae" not in "".join(line for line in lines if "import" in line)
    assert len([line for line in lines if "import" not in line]) <= 10
    exec(code, names)
    assert names["train_ready"].shape == (4, 8, 2, 2)
    assert abs(names["train_ready"]).max() < 20
    assert len(names["keys"]) == 24
    assert "(4, 8, 2, 2)" in capsys.readouterr().out


@pytest.mark.usefixtures("store")
def test_the_reader_of_tcae_does_what_is_shown():
    names: dict = {}
    exec(snippet("docs/reading.md", "LatentStore").replace("[5, 900, 17]", "[5, 20, 17]"), names)
    assert names["batch"].shape == (3, 8, 2, 2)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md", "docs/reading.md"])
def test_batches_for_a_trainer_are_as_shown(page):
    names: dict = {}
    exec(snippet(page, "LatentDataset").replace("256,", "8,"), names)
    assert names["latents"].shape == (8, 8, 2, 2) and names["labels"].shape == (8,)
    assert abs(names["latents"]).max() < 20


@pytest.mark.usefixtures("store")
def test_a_stream_for_a_trainer_is_as_shown():
    names: dict = {}
    exec(snippet("docs/reading.md", "LatentStream").replace("256,", "8,"), names)
    assert names["latents"].shape == (8, 8, 2, 2) and names["labels"].shape == (8,)


def test_the_section_on_stopping_repairing_growing_and_moving_is_true_line_by_line(
    photos, forks, tmp_path, monkeypatch
):
    """With real processes, a kill -9 for the interruption, and images put right and put in where it says so."""
    block = next(block for block in blocks(ROOT / "docs/resuming.md", "sh") if RUN_BY.match(block.comment))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos, tmp_path / "imgs")
    broken = tmp_path / "imgs" / "person" / "3.jpg"
    good_bytes = broken.read_bytes()
    broken.write_bytes(good_bytes[:600])
    said = []
    for number, line in enumerate(block.lines):
        if "--retry-failed" in line:
            broken.write_bytes(good_bytes)
        if "--append" in line:
            shutil.copy(photos / "person" / "4.jpg", tmp_path / "imgs" / "person" / "new.jpg")
        words = shlex.split(line)
        if words[0] != "tcae":
            done = subprocess.run(words, capture_output=True, text=True)
            said.append((done.returncode, done.stdout + done.stderr))
            continue
        run = forks.start(words[1:], os.environ)
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


def example(name: str) -> Any:
    """The class of that name in docs/contributing.md, from the file that a contributor writes."""
    names: dict = {}
    exec(snippet("docs/contributing.md", f"class {name}"), names)
    return names[name]


def test_the_example_of_a_metric_is_one(add, photos, small_checkpoint):
    add(METRICS, "mae", example("MeanAbsoluteError"))
    request = EvalRequest(metrics=("mae",), models=(str(small_checkpoint),), data=str(photos), num_workers=0)
    assert 0 < evaluate(request, Silent()).evaluations[0].values["mae"] < 255


def test_the_examples_of_a_codec_and_a_family_make_a_store_that_plain_zarr_reads(add, encode, photos, tmp_path):
    add(CODECS, "gzip", example("GzipChunks"))
    add(FAMILIES, "means:", example("BlockMeans"))
    encode(photos, tmp_path / "out.zarr", model="means:8", codec="gzip", sizes=(64,))
    latents = LatentStore(tmp_path / "out.zarr").latents(range(24))
    assert latents.shape == (24, 3, 8, 8) and abs(latents).max() <= 1
    assert (zarr.open_group(tmp_path / "out.zarr", mode="r")["latents"][:] == latents).all()


def test_the_example_of_a_format_writes_files_that_numpy_reads(add, store, tmp_path):
    add(FORMATS, "npz", example("Npz"))
    export_store(ExportRequest(store="out.zarr", target="exported", format="npz"), Silent())
    with np.load(tmp_path / "exported" / "rows-00000000.npz") as file:
        assert file["latents"].shape == (24, 8, 2, 2) and file["labels"].shape == (24,)


def test_the_example_of_a_kind_of_source_is_read(add, photos, tmp_path):
    add(KINDS, "mxnet", example("MxnetList"))
    shutil.copytree(photos, tmp_path / "imgs")
    (tmp_path / "some.lst").write_text("0\t7\timgs/person/1.jpg\n1\t3\timgs/person/0.jpg\n")
    source = open_source(str(tmp_path / "some.lst"), tmp_path / "index")
    assert source.keys(range(2)) == ["imgs/person/0.jpg", "imgs/person/1.jpg"]
    assert source.labels(0, 2).tolist() == [3, 7]
    assert source.read(1) == (photos / "person" / "1.jpg").read_bytes()


def test_the_example_of_a_loss_is_a_term():
    term = example("Charbonnier")(0.5, None)
    black, white = -torch.ones(2, 3, 8, 8), torch.ones(2, 3, 8, 8)
    assert term.weight == 0.5
    assert abs(term(black, white) - 1) < 1e-4 and term(black, black) < 2e-3


def test_every_file_named_is_there():
    text = README.read_text()
    named = re.findall(r"\]\((?!http)([^)]+)\)", text)
    assert len(named) > 15
    for path in named:
        assert (ROOT / path).exists(), path
    recipes = [path for page in PAGES for path in re.findall(r"recipes/[\w./-]+\.(?:yaml|py)", page.read_text())]
    assert len(recipes) > 5
    for path in recipes:
        assert (ROOT / path).exists(), path


def test_the_readme_is_short():
    lines = README.read_text().splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 120
