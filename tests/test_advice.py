"""Whatever a message advises is done here, in the message's own words, and does what it promises.

Advice on images that changed is tested in jobs/test_retry_failed.py, on memory in jobs/test_encode.py and
jobs/test_train_failures.py, on GPUs in test_cli.py, on workers in runtime/test_shared_memory.py.
"""

import ast
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest
from datasets import Dataset, DatasetDict

import tcae_cli
from tcae_cli import cli
from tcae_cli.errors import UsageError
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.load import dump_recipe
from tcae_cli.reports.progress import Silent
from tcae_cli.store.dataset import LatentDataset

from .conftest import save_small_model
from .small_recipes import recipe
from .tables import table

ON_CPU = ["--device", "cpu"]


@pytest.fixture
def advice(tcae) -> Callable[..., list[str]]:
    """Runs a command that fails, and gives the words of its message that a pattern captures."""

    def found(command: Sequence[object], pattern: str, exit_code: int = 2) -> list[str]:
        code, stdout, stderr = tcae(*command)
        said = stderr + stdout
        match = re.search(pattern, said)
        assert code == exit_code and match, said
        return list(match.groups())

    return found


@pytest.fixture
def succeeds(tcae) -> Callable[..., str]:
    """Runs a command with options as a message writes them; gives what it printed."""

    def run(command: Sequence[object], *advised: str) -> str:
        code, stdout, stderr = tcae(*command, *(word for text in advised for word in shlex.split(text)))
        assert code == 0, stderr + stdout
        return stdout

    return run


@pytest.fixture
def encoding(small_checkpoint, tmp_path) -> Callable[..., list[object]]:
    """Gives the command that encodes a source into tmp_path."""

    def command(source: Path | str, *options: object, store: str = "store.zarr") -> list[object]:
        model = ["--model", small_checkpoint, "--workers", 0]
        return ["encode-dataset", source, tmp_path / store, *model, *ON_CPU, *options]

    return command


@pytest.fixture
def store(photos, encode, tmp_path) -> Path:
    encode(photos, tmp_path / "store.zarr")
    return tmp_path / "store.zarr"


def test_a_size_that_does_not_fit(photos, encoding, advice, succeeds):
    (size,) = advice(encoding(photos, "--size", 70), r"--size 70 .* try (\d+)")
    succeeds(encoding(photos, "--size", size))


def test_two_options_of_which_either_may_go(photos, encoding, advice, succeeds):
    omitted, instead = advice(
        encoding(photos, "--resize", "adm", "--decode", "draft"), r"omit (--decode draft), or use (--resize torch)"
    )
    succeeds(encoding(photos, "--resize", "adm", store="adm.zarr"))
    succeeds(encoding(photos, store="draft.zarr"), omitted, instead)


def test_images_of_a_tar_that_are_several_a_sample(make_tar, png, encoding, advice, succeeds):
    tar = make_tar("s.tar", {"a.png": png(seed=1), "a.depth.png": png(seed=2)})
    one, each = advice(encoding(tar), r'(--image \S+), or .* each with (--image "\*")', exit_code=1)
    assert "1 rows ok" in succeeds(encoding(tar, store="one.zarr"), one)
    assert "2 rows ok" in succeeds(encoding(tar, store="each.zarr"), each)


def test_links_in_a_tar(make_folder, png, tmp_path, encoding, tcae, succeeds):
    folder = make_folder({"a.png": png(seed=3)})
    (folder / "b.png").symlink_to("a.png")
    (folder / "c.png").hardlink_to(folder / "a.png")
    pack = ["tar", "--create", "--file", "links.tar", "--directory", folder]
    subprocess.run([*pack, "."], cwd=tmp_path, check=True)
    _, stdout, _ = tcae(*encoding(tmp_path / "links.tar"))
    options = re.search(r"is a link inside a tar; make it with (.*)", stdout)[1]
    subprocess.run([*pack, *options.split(), "."], cwd=tmp_path, check=True)
    assert "3 rows ok" in succeeds(encoding(tmp_path / "links.tar", store="whole.zarr"))


def test_columns_of_a_list(make_folder, png, encoding, advice, succeeds):
    folder = make_folder({f"{name}.png": png(seed=seed) for seed, name in enumerate("abcd")})
    rows = [("a.png", "b.png", "one"), ("c.png", "d.png", "two")]
    (folder / "list.csv").write_text(table(("left", "right", "text"), rows, "csv"))
    (option,) = advice(encoding(folder / "list.csv"), r"(--image)\b", exit_code=1)
    assert "2 rows ok" in succeeds(encoding(folder / "list.csv"), f"{option} right")


def test_splits_of_a_data_set(png, tmp_path, encoding, advice, succeeds):
    from datasets import Image as ImageFeature

    parts = {"small": 1, "large": 3}
    images = {
        name: Dataset.from_dict({"image": [{"bytes": png(seed=k), "path": None} for k in range(count)]}).cast_column(
            "image", ImageFeature()
        )
        for name, count in parts.items()
    }
    DatasetDict(images).save_to_disk(tmp_path / "saved")
    known, option = advice(encoding(tmp_path / "saved"), r"has the splits (.*); choose one with (--split)")
    for split in known.split(", "):
        said = succeeds(encoding(tmp_path / "saved", store=f"{split}.zarr"), f"{option} {split}")
        assert f"{parts[split]} rows ok" in said


def test_latents_that_the_type_does_not_hold(photos, encoding, monkeypatch, tcae, succeeds):
    honest = TCAE.encode
    monkeypatch.setattr(TCAE, "encode", lambda self, images: honest(self, images) * 1e7)
    code, stdout, _ = tcae(*encoding(photos))
    option = re.search(r"are beyond float16; encode into another store with (--dtype float32)", stdout)[1]
    assert code == 3
    assert "24 rows ok" in succeeds(encoding(photos, store="another.zarr"), option)


def test_a_store_is_continued_as_it_was_made_or_another_is_begun(photos, store, encoding, advice, succeeds):
    advice(encoding(photos, "--flip"), r"repeat the command it was made with, or encode into another store", 1)
    assert "nothing to do" in succeeds(encoding(photos))
    succeeds(encoding(photos, "--flip", store="another.zarr"))


def test_new_images_are_appended(photos, store, encoding, tmp_path, advice, succeeds):
    source = shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(source / "thing" / "2.jpg", source / "thing" / "new.jpg")
    (option,) = advice(encoding(source), r"pass (--append) to add the new ones", exit_code=1)
    line = advice(["verify", store, "--rows", 0, "--source", source], r"tcae encode-dataset (--append) adds them", 1)
    assert line == [option]
    assert "25 rows ok" in succeeds(encoding(source), option)
    succeeds(["verify", store, "--rows", 0, "--source", source])


def test_a_damaged_shard_is_mended(photos, store, encoding, advice, succeeds):
    shard = next((store / "latents").glob("c.0*"))
    shard.write_bytes(shard.read_bytes()[:-9] + b"otherwise")
    (record,) = advice(["verify", store, "--rows", 0], r"to mend shards, remove (\S+) in .* and repeat tcae", 1)
    (store / record).unlink()
    assert "16 images in" in succeeds(encoding(photos))
    succeeds(["verify", store, "--rows", 0])


@pytest.mark.parametrize(("data", "pattern"), [(None, r"(\S+) is missing"), (b"{", r"(\S+) is damaged; remove it")])
def test_metadata_that_is_lost_is_written_again(photos, store, encoding, advice, succeeds, data, pattern):
    path = store / "original_size" / "zarr.json"
    path.unlink() if data is None else path.write_bytes(data)
    (name,) = advice(
        ["verify", store, "--rows", 0], rf"{pattern}.* repeat tcae encode-dataset, which writes it again", 1
    )
    (store / name).unlink(missing_ok=True)
    succeeds(encoding(photos))
    succeeds(["verify", store, "--rows", 0])


TABLES = ["statistics/latents/channel_std", "statistics/latents", "failures/error", "failures"]


@pytest.mark.parametrize("name", [f"{table}/zarr.json" for table in TABLES] + [f"{table}/c/0" for table in TABLES[::2]])
@pytest.mark.parametrize("data", [None, b"{"])
def test_tables_that_are_lost_are_written_again(captioned, encode, encoding, tmp_path, advice, succeeds, name, data):
    store = tmp_path / "store.zarr"
    encode(captioned, store, max_failures="10%")
    (store / name).unlink() if data is None else (store / name).write_bytes(data)
    advice(
        ["verify", store, "--rows", 0], r"problem: (?:statistics|failures)\S* .*; repeat tcae encode-dataset, which", 1
    )
    said = succeeds(encoding(captioned, "--max-failures", "10%"))
    assert "23 rows ok, 1 failed; nothing to do" in said
    succeeds(["verify", store, "--rows", 0])


def test_a_damaged_list_of_images_is_written_again(photos, store, encoding, advice, succeeds):
    index = next((store / ".tcae" / "index").iterdir())
    (index / "labels.npy").write_bytes(b"{")
    (summary,) = advice(["verify", store, "--rows", 0], r"labels\.npy is damaged .*; remove (\S+) and repeat", 1)
    Path(summary).unlink()
    succeeds(encoding(photos))
    succeeds(["verify", store, "--rows", 0])


def test_a_store_without_a_good_row_is_encoded_once_its_images_are_put_right(
    make_folder, png, tmp_path, encoding, advice, tcae, succeeds
):
    folder, store = make_folder({"a.png": b"damaged", "b.png": b"damaged too"}), tmp_path / "store.zarr"
    assert tcae(*encoding(folder))[0] == 3
    export = ["export", store, tmp_path / "out", "--format", "npy"]
    evaluation = ["eval", "--store", store, "--metric", "psnr", *ON_CPU]
    for reader in (export, evaluation):
        info, retry = advice(reader, r"(tcae info) says why, and tcae encode-dataset (--retry-failed)", exit_code=1)
    assert "not an image that can be read" in succeeds([*info.split()[1:], store])
    assert "2 rows hold no latents" in succeeds(["decode", store, tmp_path / "pictures", *ON_CPU])

    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(png())
    assert "2 rows ok" in succeeds(encoding(folder), retry)
    succeeds(export)


def test_a_store_that_was_interrupted(photos, encode, encoding, tmp_path, succeeds):
    class Interrupting(Silent):
        def advance(self, count: int = 1, failed: int = 0, note: str = "") -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(photos, tmp_path / "store.zarr", Interrupting())
    assert "incomplete; repeat tcae encode-dataset to resume" in succeeds(["info", tmp_path / "store.zarr"])
    succeeds(encoding(photos))
    assert "store.zarr: complete" in succeeds(["info", tmp_path / "store.zarr"])


def test_another_model_than_the_one_of_the_latents(store, small_checkpoint, tmp_path, advice, succeeds):
    other = save_small_model(tmp_path / "other.safetensors", seed=1)
    decode = ["decode", store, tmp_path / "out", *ON_CPU]
    (force,) = advice([*decode, "--model", other], r"pass --model with the first, or (--force) to decode", 1)
    succeeds([*decode, "--model", other], force)
    succeeds([*decode, "--model", small_checkpoint])

    verify = ["verify", store, *ON_CPU, "--picture", tmp_path / "seen.png"]
    (nothing,) = advice([*verify, "--model", other], r"pass --model with the first, or (--rows 0)", 1)
    succeeds([*verify, "--model", other], nothing)
    succeeds([*verify, "--model", small_checkpoint])


def test_rows_to_decode(store, tmp_path, advice, succeeds):
    decode = ["decode", store, tmp_path / "out", *ON_CPU, "--rows"]
    for rows in re.split(", | or ", *advice([*decode, "first"], r"; write (.*)\n")):
        succeeds([*decode, rows])


def test_mirrored_latents_that_are_not_there(photos, store, encoding, tmp_path, succeeds):
    with pytest.raises(UsageError, match=r"latents_flip; encode into another store with --flip") as raised:
        LatentDataset(store, random_flip=True)
    succeeds(encoding(photos, store="another.zarr"), str(raised.value).rpartition(" with ")[2])
    assert len(LatentDataset(tmp_path / "another.zarr", random_flip=True)) == 24


def test_rows_without_a_class_are_exported_for_trainers_that_need_none(many_photos, tmp_path, encode, advice, succeeds):
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(many_photos.iterdir())[:3]:
        shutil.copy(path, few)
    encode(few, tmp_path / "plain.zarr")
    export = ["export", tmp_path / "plain.zarr"]
    (formats,) = advice([*export, tmp_path / "x", "--format", "dc-ae"], r"pass --format (.*)\n")
    for name in re.split(", | or ", formats):
        succeeds([*export, tmp_path / name, "--format", name])


def test_fewer_images_than_a_batch_and_a_run_that_is_there(photos, tmp_path, advice, succeeds):
    (tmp_path / "mine.yaml").write_text(dump_recipe(recipe(steps=1, train={"batch_size": 30})))
    train = ["train", tmp_path / "mine.yaml", "--data", photos, "--out", tmp_path / "run", "--workers", 0, *ON_CPU]
    (setting,) = advice(train, r"use more images, or (--set train.batch_size=\d+)", exit_code=1)
    succeeds(train, setting)
    resume, out = advice([*train, *setting.split()], r"continue it with (--resume), or give another (--out)")
    succeeds(train, setting, resume)
    assert out == "--out"


def test_a_run_without_a_checkpoint_and_a_folder_that_is_no_run(photos, tmp_path, advice, succeeds):
    (tmp_path / "mine.yaml").write_text(dump_recipe(recipe(steps=1)))
    train = ["train", tmp_path / "mine.yaml", "--data", photos, "--workers", 0, *ON_CPU, "--out"]
    advice([*train, tmp_path / "run", "--resume"], r"start it without --resume")
    succeeds([*train, tmp_path / "run"])

    shutil.copytree(photos, tmp_path / "mine")
    for resume in ([], ["--resume"]):
        advice([*train, tmp_path / "mine", *resume], r"mine holds animal, and no state\S+ to resume .* another --out")


# Options of other programs: docker, GNU tar, zip, the Hub's client, torchrun.
ELSEWHERE = {
    "--shm-size",
    "--dereference",
    "--hard-dereference",
    "--sparse",
    "--symlinks",
    "--repo-type",
    "--local-dir",
}
ELSEWHERE |= {"--nnodes", "--nproc-per-node", "--node-rank"}
PACKAGE = Path(tcae_cli.__file__).parent


def words_of_messages(pattern: str) -> set[str]:
    """The matches of a pattern in all texts of the package that are no docstrings."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                found |= set(re.findall(pattern, node.value))
    assert found
    return found


def test_every_option_and_command_that_a_text_names_exists():
    group = click.Context(cli.tcae)
    commands = {name: cli.tcae.get_command(group, name) for name in cli.tcae.list_commands(group)}
    options = {
        text
        for command in (cli.tcae, *commands.values())
        for each in command.get_params(group)
        for text in (*each.opts, *each.secondary_opts)
    }
    assert words_of_messages(r"(?<![\w-])--[a-z][a-z-]+") <= options | ELSEWHERE
    assert words_of_messages(r"(?:repeat|repeating|see|with|run|or) tcae ([a-z-]+)") <= commands.keys()
