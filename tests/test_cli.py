"""The command line: help, exit codes, one sentence an error."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
import zarr

from tcae_cli.cli import tcae as click_commands
from tcae_cli.commands._run import run_job
from tcae_cli.errors import DeviceError, DeviceMemoryError
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.load import dump_recipe
from tcae_cli.reports.train import TrainReport
from tcae_cli.terminal.progress import ConsoleProgress
from tcae_cli.terminal.show import show_report

from .small_recipes import recipe as small_recipe

COMMANDS = click_commands.list_commands(click.Context(click_commands))


def test_missing_tars_are_passed_over_in_any_number_or_in_the_one_that_is_given(tcae, make_tar, png, tmp_path):
    make_tar("7.tar", {"a.png": png()})
    arguments = ["encode-dataset", tmp_path / "{6..8}.tar", tmp_path / "out.zarr", "--dry-run"]
    code, _, stderr = tcae(*arguments, "--allow-missing", 1)
    assert code == 2 and "lacks 2 of its 3 files, more than --allow-missing 1: 6.tar, 8.tar" in stderr
    for allowed in ([2], []):
        code, _, stderr = tcae(*arguments, "--allow-missing", *allowed)
        assert code == 0 and "lacks 2 of its 3 files, which --allow-missing permits: 6.tar, 8.tar" in stderr


@pytest.mark.parametrize("command", ["train", "encode-dataset", "decode", "eval", "export", "push"])
def test_each_command_has_help(tcae, command):
    code, stdout, _ = tcae(command, "--help")
    assert code == 0
    assert stdout.startswith(f"Usage: tcae {command}")
    assert command in tcae("--help")[1]


def test_help_and_recipe_errors_import_neither_torch_nor_zarr(tmp_path):
    script = "import sys; from tcae_cli.cli import main; sys.argv = ['tcae', *sys.argv[1:]]\ntry: main()\n"
    script += "except SystemExit: print({'torch', 'zarr', 'timm'} & set(sys.modules))"
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("train: {steps: x}")
    helps = [[name, "--help"] for name in COMMANDS]
    assert len(helps) == 11
    for arguments in (["--help"], *helps, ["train", str(recipe), "--data", "."]):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "set()"


def test_jobs_on_stores_and_evaluations_import_no_library_that_would_double_their_start():
    jobs = ("encode", "decode", "verify", "info", "export", "update_metadata", "evaluate")
    slow = {"torchmetrics", "transformers", "scipy"}
    script = f"import sys; {'; '.join(f'import tcae_cli.jobs.{job}' for job in jobs)}; print({slow} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


TRAIN = "train r.yaml --set model.preset=S"


@pytest.mark.parametrize(
    ("typed", "options", "expected"),
    [
        ("encode-dataset a b", {"--batch-size": "32"}, "encode-dataset a b --batch-size 32"),
        ("eval --batch-size 64 --data 'my photos'", {"--batch-size": "32"}, "eval --batch-size 32 --data 'my photos'"),
        ("encode-dataset a b --batch-size=64", {"--batch-size": "32"}, "encode-dataset a b --batch-size 32"),
        (TRAIN, {"--set": "train.accumulate=2"}, f"{TRAIN} --set train.accumulate=2"),
        (f"{TRAIN} --set train.accumulate=2", {"--set": "train.accumulate=4"}, f"{TRAIN} --set train.accumulate=4"),
        (TRAIN, {"--resume": "", "--set": "train.accumulate=2"}, f"{TRAIN} --resume --set train.accumulate=2"),
        (f"{TRAIN} --resume", {"--resume": ""}, f"{TRAIN} --resume"),
    ],
)
def test_running_out_of_memory_ends_with_a_command_to_paste(monkeypatch, typed, options, expected):
    def run_out(request, progress):
        raise DeviceMemoryError("out of memory; try less", options=options)

    monkeypatch.setattr(sys, "argv", ["tcae", *shlex.split(typed)])
    with pytest.raises(DeviceError) as raised:
        run_job(run_out, None, as_json=False)
    assert str(raised.value) == f"out of memory; try less: tcae {expected}"

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DeviceError) as raised:
        run_job(run_out, None, as_json=False)
    assert str(raised.value) == f"out of memory; try less; let the launcher start: tcae {expected}"


def test_encoding_that_runs_out_of_memory_ends_with_the_command_to_paste(
    tcae, monkeypatch, photos, tmp_path, small_checkpoint
):
    def run_out(model, images):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    monkeypatch.setattr(TCAE, "encode", run_out)
    arguments = ["encode-dataset", photos, tmp_path / "out.zarr", "--model", small_checkpoint, "--device", "cpu"]
    code, _, stderr = tcae(*arguments, "--workers", 0)
    shown = "out of memory on the device with --batch-size 16; try --batch-size 8: tcae encode-dataset"
    assert code == 1 and shown in stderr and stderr.endswith("--workers 0 --batch-size 8\n")


@pytest.mark.parametrize(("ending", "code", "words"), [("return 2", 2, ""), ("1 / 0", 1, "ZeroDivisionError")])
def test_after_an_error_in_a_process_group_a_rank_leaves_at_once(tmp_path, ending, code, words):
    script = f"""
import atexit, torch.distributed as dist
from tcae_cli import cli

def run(arguments):
    dist.init_process_group("gloo", init_method="file://{tmp_path}/meet", rank=0, world_size=1)
    atexit.register(print, "Python's own end")
    {ending}

cli._run = run
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_each_option_in_a_group_and_shows_examples_that_parse(tcae, name):
    shown = tcae(name, "--help")[1]
    command = click_commands.get_command(click.Context(click_commands), name)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help and f"\n{parameter.group}:\n" in shown, parameter.name
    assert 2 <= len(command.examples) <= 3
    for sentence, line in command.examples:
        assert f"  {sentence}:\n    {line}\n" in shown
        program, called, *arguments = shlex.split(line)
        assert (program, called) == ("tcae", name) and command.make_context(name, arguments).params


def test_the_examples_of_finetuning_are_of_recipes_that_fit_their_models(tcae, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])  # where the recipes are
    command = click_commands.get_command(click.Context(click_commands), "finetune")
    for number, (_, line) in enumerate(command.examples):
        arguments = [photos if word == "photos" else word for word in shlex.split(line)[1:]]
        code, _, stderr = tcae(*arguments, "--out", tmp_path / str(number), "--device", "cpu", "--dry-run")
        assert code == 0, stderr


def test_help_is_plain_text_where_there_is_no_terminal(tcae):
    for arguments in ([], *([name] for name in COMMANDS)):
        shown = tcae(*arguments, "--help")[1]
        assert shown.isascii() and "\x1b" not in shown


def test_encode_decode_and_eval_from_the_command_line(tcae, photos, tmp_path, small_checkpoint):
    store = tmp_path / "out.zarr"
    model = ["--device", "cpu", "--model", small_checkpoint]
    code, stdout, stderr = tcae("encode-dataset", photos, store, "--workers", 0, *model)
    assert code == 0, stderr
    assert "is complete: 24 rows ok, 0 failed" in stdout and "<- slowest" in stdout
    assert "encode: 24 of 24 images" in stderr  # plain lines where there is no terminal

    code, stdout, _ = tcae("encode-dataset", photos, store, "--workers", 0, *model)
    assert code == 0 and "24 rows ok, 0 failed; nothing to do" in stdout

    code, stdout, _ = tcae("decode", store, tmp_path / "recon", "--rows", "0:4", "--grid", 2, "--device", "cpu")
    assert code == 0 and "4 images written" in stdout and "grid.png" in stdout

    metrics = ["--metric", "psnr", "--metric", "ssim", "--workers", 0, "--device", "cpu"]
    code, stdout, _ = tcae("eval", small_checkpoint, "--data", photos, *metrics)
    assert code == 0 and "psnr" in stdout and "dB" in stdout
    code, stdout, _ = tcae("eval", small_checkpoint, "--data", photos, *metrics, "--json")
    report = json.loads(stdout)
    assert report["num_images"] == 24 and report["evaluations"][0]["values"].keys() == {"psnr", "ssim"}


def test_train_from_the_command_line(tcae, photos, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "model: {image_size: 64, latent_channels: 8, width: 32, depths: [1, 1], num_heads: 2}\n"
        "data: {resize_min: 64, resize_max: 80}\nloss: {perceptual: none}\n"
        "train: {steps: 2, batch_size: 4, precision: fp32}\n"
    )
    run = ["train", recipe, "--data", photos, "--out", tmp_path / "run", "--workers", 0, "--device", "cpu"]
    code, stdout, _ = tcae(*run)
    assert code == 0 and "step 2" in stdout
    code, _, stderr = tcae(*run)
    assert code == 2 and "run exists; continue it with --resume, or give another --out" in stderr


def test_wrong_use_is_one_sentence_and_exit_code_2(tcae, tmp_path, photos, small_checkpoint):
    store = tmp_path / "out.zarr"
    encode = ["encode-dataset", photos, store, "--model", small_checkpoint, "--device", "cpu"]
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("train: {steps: 1}\nmodel: {patch_szie: 8}")
    for arguments, sentence in [
        (["encode-dataset", tmp_path / "nowhere", store], "nowhere does not exist; give tar shards (.tar, "),
        (["encode-dataset", photos, store, "--model", "nobody"], "no model at nobody; give a file, a run folder"),
        ([*encode, "--size", 100], "--size 100 is not a multiple of 32"),
        ([*encode, "--max-failures", "some"], "--max-failures some is neither a share like 1% nor a count like 12"),
        ([*encode, "--gpus", 2], "--gpus and --device cpu exclude each other"),
        (["encode-dataset", photos, store, "--device", "tpu9"], "--device tpu9 is not a device"),
        (["encode-dataset", photos, store, "--device", "mps"], "--device mps is not a device that tcae computes on"),
        (["train", recipe, "--data", photos], "unknown key model.patch_szie; did you mean model.patch_size?"),
        (["train", recipe, "--data", photos, "--weights", "vgg"], "--weights vgg is not of the form NAME=PATH"),
        (["train", recipe, "--data", photos, "--weights", "squeezenet=x"], "did you mean squeezenet1_1?"),
        (["eval", "--metric", "psnr", "--weights", "vgg=x"], "use one of inception, dinov2, lpips-vgg, lpips-alex"),
        (["eval", "--data", photos, "--metric", "beauty"], "--metric beauty is not one of rfid, fd-dinov2, is, psnr"),
    ]:
        code, stdout, stderr = tcae(*arguments)
        assert (code, stdout) == (2, ""), arguments
        assert stderr.startswith("Error: ") and sentence in stderr and stderr.count("\n") == 1, stderr
    assert not store.exists()


def test_more_gpus_than_there_are_is_answered_with_the_command_for_this_machine(
    tcae, tmp_path, photos, small_checkpoint, monkeypatch
):
    command = ["encode-dataset", photos, tmp_path / "out of it.zarr", "--model", small_checkpoint, "--gpus"]
    line = f"tcae encode-dataset {photos} '{tmp_path}/out of it.zarr' --model {small_checkpoint}"
    for num_gpus, advice in [
        (0, f"Error: --gpus 8: no GPU is visible here; run: {line} --workers 0\n"),
        (2, f"Error: --gpus 8: 2 GPUs are visible here; run: {line} --gpus 2 --workers 0\n"),
    ]:
        monkeypatch.setattr(torch.cuda, "device_count", lambda num_gpus=num_gpus: num_gpus)
        assert tcae(*command, "8", "--workers", 0) == (2, "", advice)
    assert not (tmp_path / "out of it.zarr").exists()


def test_all_gpus_where_there_is_none_are_the_cpu(tcae, tmp_path, photos, small_checkpoint, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    command = ["encode-dataset", photos, tmp_path / "out.zarr", "--model", small_checkpoint, "--workers", 0]
    code, stdout, _ = tcae(*command, "--gpus", "all")
    assert code == 0 and "24 rows ok" in stdout


def test_a_dry_run_writes_nothing_and_shares_the_work_among_gpus_that_are_not_here(
    tcae, tmp_path, photos, small_checkpoint, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.chdir(tmp_path)
    encode = ["encode-dataset", photos, "out.zarr", "--model", small_checkpoint, "--workers", 0, "--dry-run"]
    code, stdout, stderr = tcae(*encode, "--gpus", 8)
    assert code == 0, stderr
    assert stdout.startswith("out.zarr: a dry run, nothing is written\n")
    for words in ("24; 2 shards of 16 rows", ", one rank's divided by 8", "slowest: ", "files; ", " free"):
        assert words in stdout, words
    assert json.loads(tcae(*encode, "--json")[1])["num_rows_left"] == 24

    (tmp_path / "mine.yaml").write_text(dump_recipe(small_recipe()))
    train = ["train", "mine.yaml", "--data", photos, "--dry-run"]
    code, stdout, stderr = tcae(*train, "--gpus", 2)
    assert code == 0, stderr
    assert stdout.startswith("runs/mine: a dry run, nothing is written\n")
    for words in ("24 images of ", "2 at a time on each of 2 ranks", "MACs", "a checkpoint", "divided by 2"):
        assert words in stdout, words
    code, _, stderr = tcae(*train, "--gpus", 3)
    assert code == 2 and "train.batch_size 4 cannot be shared among 3 ranks" in stderr
    code, _, stderr = tcae(*train, "--gpus", 2, "--device", "cpu")
    assert code == 2 and "--gpus and --device cpu exclude each other" in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_contents_that_cannot_work_are_one_sentence_and_exit_code_1(tcae, tmp_path, photos, small_checkpoint):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.md").write_text("no image")
    (tmp_path / "not.safetensors").write_bytes(b"nonsense")
    zarr.create_group(tmp_path / "other.zarr")
    store = tmp_path / "out.zarr"
    for arguments, sentence in [
        (["encode-dataset", tmp_path / "empty", store], "empty is empty; images are files ending in"),
        (["encode-dataset", tmp_path / "texts", store], "holds no images"),
        (["encode-dataset", photos, store, "--model", tmp_path / "not.safetensors"], "is not a safetensors file"),
        (["encode-dataset", photos, tmp_path / "other.zarr"], "is a Zarr group of something else"),
        (["encode-dataset", photos, tmp_path / "texts"], "is not a store of latents and is not empty"),
        (["decode", tmp_path / "nowhere.zarr", tmp_path / "out"], "nowhere.zarr is not a store of latents"),
        (["encode-dataset", photos, store, "--device", "cuda:99"], "--device cuda:99: "),
    ]:
        code, stdout, stderr = tcae(*arguments)
        assert (code, stdout) == (1, ""), (arguments, stderr)
        assert stderr.startswith("Error: ") and sentence in stderr and stderr.count("\n") == 1, stderr
    assert not store.exists()


def test_debug_shows_the_traceback_wherever_it_stands(tcae, tmp_path):
    for arguments in (
        ["--debug", "eval", "--data", tmp_path / "nowhere", "--metric", "psnr"],
        ["eval", "--data", tmp_path / "nowhere", "--metric", "psnr", "--debug"],
    ):
        code, _, stderr = tcae(*arguments)
        assert code == 2 and "Traceback" in stderr and "NotFoundError" in stderr


@pytest.mark.parametrize(("error", "exit_code"), [("KeyboardInterrupt", 130), ("SourceError('gone')", 1)])
def test_a_command_that_stops_does_not_wait_for_what_is_read_ahead(error, exit_code):
    script = f"""
import time
from tcae_cli import cli
from tcae_cli.errors import SourceError
from tcae_cli.runtime.threads import in_threads

def stop(*_, **__):
    for _ in in_threads(lambda seconds: time.sleep(seconds), [0, 600, 600], most=2, num_threads=1):
        raise {error}

cli.tcae.main = stop
cli.main()
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert run.returncode == exit_code and len(run.stderr.strip().splitlines()) == 1


def test_a_store_may_be_named_by_json(tcae, photos, tmp_path, small_checkpoint):
    options = ["--model", small_checkpoint, "--device", "cpu", "--workers", 0, "--json"]
    code, stdout, _ = tcae("encode-dataset", photos, tmp_path / "out.zarr", *options)
    report = json.loads(stdout)
    assert code == 0
    assert (report["num_ok"], report["complete"], report["store"]) == (24, True, str(tmp_path / "out.zarr"))


@pytest.mark.parametrize("command", ["info", "verify"])
def test_what_looks_at_a_store_has_help(tcae, command):
    code, stdout, _ = tcae(command, "--help")
    assert code == 0
    assert stdout.startswith(f"Usage: tcae {command} [OPTIONS] STORE")
    assert command in tcae("--help")[1]


def test_info_is_one_screen(tcae, photos, tmp_path, small_checkpoint, monkeypatch):
    source, store = shutil.copytree(photos, tmp_path / "photos"), tmp_path / "out.zarr"
    (source / "animal" / "1.jpg").write_bytes(b"not an image")
    shutil.copy(source / "animal" / "0.jpg", source / "animal" / "2.jpg")
    options = ["--model", small_checkpoint, "--device", "cpu", "--workers", 0, "--max-failures", "5%"]
    tcae("encode-dataset", source, store, "--flip", "--dtype", "int8", *options)
    monkeypatch.setenv("COLUMNS", "100")
    code, stdout, stderr = tcae("info", store)
    assert (code, stderr) == (0, "")
    assert stdout.count("\n") <= 30
    for words in (
        f"{store}: complete\n",
        "24: 23 ok, 1 failed, 0 pending",
        "2 of 2 committed, 16 rows each",
        "latents [8, 2, 2] of 64 px; latents_flip [8, 2, 2] of 64 px, mirrored",
        "int8, codec zstd",
        f"{small_checkpoint} (",
        "torch resize, draft decoding, fp32, batches of 16",
        f"{source}: 24 images (",
        "3 classes (animal, person, thing)",
        "% of 8-bit pixels",
        "of 8 nearly dead",
        "values clipped",
        "2 rows hold 1 image: animal/0.jpg = animal/2.jpg",
        "1 in decode",
        "animal/1.jpg  decode  not an image",
    ):
        assert words in stdout, words
    report = json.loads(tcae("info", store, "--json")[1])
    assert report["rows"]["ok"] == 23 and report["source"]["count"] == 24


def test_verify_exits_with_1_when_something_is_wrong(tcae, photos, tmp_path, small_checkpoint):
    store, picture = tmp_path / "out.zarr", tmp_path / "picture.png"
    tcae("encode-dataset", photos, store, "--model", small_checkpoint, "--device", "cpu", "--workers", 0)
    verify = ["verify", store, "--device", "cpu", "--picture", picture]
    code, stdout, _ = tcae(*verify, "--source", photos)
    assert code == 0
    assert "2 of 2 shards checked: 14 files" in stdout and "24 images of " in stdout
    assert f"originals above what their latents decode to: {picture}\n" in stdout
    assert stdout.endswith(f"{store}: sound\n")

    (store / "labels" / "c.1").unlink()
    code, stdout, stderr = tcae(*verify, "--rows", 0)
    assert code == 1 and "Error" not in stderr
    assert "problem: labels/c.1 is missing\n" in stdout
    assert f"to mend shards, remove .tcae/commits/000001.json in {store} and repeat tcae encode-dataset" in stdout
    assert stdout.endswith(f"{store}: 1 problem\n")
    code, stdout, _ = tcae(*verify, "--rows", 0, "--json")
    assert code == 1 and json.loads(stdout)["problems"] == ["labels/c.1 is missing"]


def test_a_store_is_sound_again_after_what_verify_advises(tcae, photos, tmp_path, small_checkpoint):
    store = tmp_path / "out.zarr"
    encode = ["encode-dataset", photos, store, "--model", small_checkpoint, "--device", "cpu", "--workers", 0]
    tcae(*encode)
    shard = store / "latents" / "c.1.0.0.0"
    data = shard.read_bytes()
    shard.write_bytes(bytes([data[0] ^ 0xFF]) + data[1:])
    code, stdout, _ = tcae("verify", store, "--rows", 0)
    assert code == 1 and ".tcae/commits/000001.json" in stdout
    (store / ".tcae" / "commits" / "000001.json").unlink()
    assert tcae(*encode)[0] == 0
    assert shard.read_bytes() == data
    assert tcae("verify", store, "--rows", 0)[0] == 0


def test_verify_says_that_a_store_is_incomplete(tcae, photos, tmp_path, small_checkpoint):
    store = tmp_path / "out.zarr"
    parts = ["--num-parts", 2, "--part", 0, "--model", small_checkpoint, "--device", "cpu", "--workers", 0]
    tcae("encode-dataset", photos, store, *parts)
    code, stdout, _ = tcae("verify", store, "--rows", 0)
    assert code == 0
    assert "1 of 2 shards checked" in stdout
    assert stdout.endswith("sound so far; it is incomplete, repeat tcae encode-dataset to resume\n")
    assert f"{store}: incomplete; repeat tcae encode-dataset to resume\n" in tcae("info", store)[1]


def test_the_summary_of_training_says_where_the_model_is_and_shows_the_last_figures(tmp_path, capsys):
    figures = {"loss": 9.87654, "lr": 2e-5, "images_per_s": 12345.6, "loader_wait_share": 0.034, "val_psnr": 21.5}
    report = TrainReport(
        rank=0, run=tmp_path, checkpoint=tmp_path / "model.safetensors", steps=5000, elapsed_s=723.0, figures=figures
    )
    show_report(report, as_json=False)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"{tmp_path / 'model.safetensors'}: step 5,000 after 12 min 03 s"
    shown = {line.split()[0]: " ".join(line.split()[1:]) for line in rest}
    assert shown.pop("last") == "figures value"
    assert shown == {
        "loss": "9.877",
        "lr": "2e-05",
        "images_per_s": "12,346",
        "loader_wait_share": "3%",
        "val_psnr": "21.5 dB",
    }

    (tmp_path / "curves.png").touch()
    (tmp_path / "reconstructions").mkdir()
    show_report(report, as_json=False)
    curves, pictures = capsys.readouterr().out.splitlines()[-2:]
    assert curves == f"curves: {tmp_path / 'curves.png'}" and pictures.endswith(f"{tmp_path / 'reconstructions'}")


def test_a_long_note_stands_below_the_bar_and_leaves_it_whole(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    note = "loss 17.82, l1 0.03451, perceptual 0.2345, class_token 8.234, masked_patch 8.345, 512 images/s, waiting 3%"
    with ConsoleProgress() as progress:
        progress.start("train", 250228, unit="steps")
        progress.advance(note=note)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert re.search(r"train .*1/250228 steps .* left\s", shown)
    assert note in " ".join(shown.split())
