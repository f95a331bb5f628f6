"""The downstream run: a DiT on a store learns, samples, resumes where it stopped, and is the same on two ranks."""

import json
import os
import shutil
from itertools import chain
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tcae_cli.jobs.encode import encode_dataset
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.store.dataset import LatentDataset

from ..forked import free_port
from .conftest import imported

SCRIPT = Path(__file__).parents[2] / "recipes" / "downstream" / "train_dit.py"
SHAPE = ["--width=32", "--depth=1", "--heads=2"]
TOY = [*SHAPE, "--batch-size=8", "--lr=0.01", "--sampling-steps=5", "--log-every=10", "--device=cpu"]


@pytest.fixture(scope="module")
def train_dit():
    with imported(SCRIPT) as module:
        yield module


@pytest.fixture(scope="module")
def make_store(small_checkpoint):
    def make_store(path, photos, dtype="float16", **options):
        request = EncodeRequest(
            source=str(photos),
            store=str(path),
            model=str(small_checkpoint),
            device="cpu",
            num_workers=0,
            dtype=dtype,
            **options,
        )
        encode_dataset(request, Silent())
        return path

    return make_store


@pytest.fixture(scope="module")
def store(photos, make_store, tmp_path_factory) -> Path:
    """Latents of 24 photographs of three classes, [8, 2, 2]."""
    return make_store(tmp_path_factory.mktemp("store") / "latents.zarr", photos)


@pytest.fixture(scope="module")
def buckets(shaped_photos, make_store, tmp_path_factory) -> Path:
    """Latents of 48 photographs of three classes, 16 of each shape: [8, 3, 5], [8, 4, 4] and [8, 5, 3]."""
    path = tmp_path_factory.mktemp("buckets") / "latents.zarr"
    return make_store(path, shaped_photos, sizes=(128,), buckets=True, bucket_step=32)


@pytest.fixture(scope="module")
def run(train_dit):
    def run(store, out, *options):
        return CliRunner().invoke(train_dit.main, [str(store), str(out), *TOY, *options])

    return run


@pytest.fixture(scope="module")
def finished(run, store, tmp_path_factory) -> Path:
    """A run of 60 steps."""
    out = tmp_path_factory.mktemp("finished") / "run"
    done = run(store, out, "--steps", "60", "--save-every", "30", "--num-samples", "5")
    assert done.exit_code == 0, done.output
    return out


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in lines(out) if "loss" in line}


def distances(out: Path) -> dict[int, float]:
    return {line["step"]: line["latent_fd"] for line in lines(out) if "latent_fd" in line}


def test_the_loss_falls_and_samples_come_closer_to_the_data(finished):
    assert list(losses(finished)) == [10, 20, 30, 40, 50, 60]
    assert losses(finished)[60] < 0.9 * losses(finished)[10]
    assert list(distances(finished)) == [0, 30, 60]
    assert distances(finished)[60] < 0.8 * distances(finished)[0]


def test_pictures_are_drawn_at_checkpoints_and_images_at_the_end(finished):
    assert [path.name for path in sorted((finished / "grids").iterdir())] == ["step-0000030.png", "step-0000060.png"]
    names = [path.name for path in sorted((finished / "samples").iterdir())]
    assert names == [*(f"00000{number}.png" for number in range(5)), "drawn_with.json"]
    with Image.open(finished / "samples" / "000004.png") as sample:
        assert (sample.size, sample.mode) == ((64, 64), "RGB")
    with Image.open(finished / "grids" / "step-0000060.png") as grid:
        assert grid.size == (8 * 68 + 4, 8 * 68 + 4)


def test_a_resumed_run_goes_on_to_the_same_losses_and_samples(run, store, finished, tmp_path):
    begun = run(store, tmp_path / "run", "--steps", "30")
    resumed = run(store, tmp_path / "run", "--steps", "60", "--num-samples", "5", "--resume")

    assert begun.exit_code == resumed.exit_code == 0, resumed.output
    assert losses(tmp_path / "run") == losses(finished)
    assert distances(tmp_path / "run") == distances(finished)
    for path in (finished / "samples").iterdir():
        assert (tmp_path / "run" / "samples" / path.name).read_bytes() == path.read_bytes()


def test_sampling_goes_on_with_what_is_missing_and_guidance_changes_what_it_draws(run, store, finished, tmp_path):
    again = ["--steps", "60", "--save-every", "30", "--num-samples", "5", "--resume"]
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    (out / "samples" / "000001.png").write_bytes(b"as it was")
    (out / "samples" / "000003.png").unlink()
    resumed = run(store, out, *again)

    assert resumed.exit_code == 0, resumed.output
    assert lines(out) == lines(finished)
    assert (out / "samples" / "000001.png").read_bytes() == b"as it was"
    drawn = (out / "samples" / "000003.png").read_bytes()
    assert drawn == (finished / "samples" / "000003.png").read_bytes()

    for path in (out / "samples").glob("*.png"):
        path.unlink()
    guided = run(store, out, *again, "--guidance", "4")
    assert guided.exit_code == 0, guided.output
    assert (out / "samples" / "000003.png").read_bytes() != drawn


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--guidance", "4"],
            "samples has images of guidance 1.0, not 4.0; move them away, or omit --num-samples",
        ),
        (["--sampling-steps", "6"], "samples has images of sampling_steps 5, not 6; move them away"),
        (["--num-samples", "6"], "samples has images of num_samples 5, not 6; move them away"),
        (["--steps", "70"], "samples has images of step 60, not 70; move them away"),
    ],
)
def test_samples_of_two_settings_are_not_mixed(run, store, finished, options, sentence):
    done = run(store, finished, "--steps", "60", "--num-samples", "5", "--resume", *options)

    assert done.exit_code == 1 and sentence in done.output
    assert list(losses(finished))[-1] == 60


def test_a_run_does_not_go_on_with_other_data(run, make_store, photos, finished, tmp_path):
    renamed = Path(shutil.copytree(photos, tmp_path / "renamed"))
    (renamed / "animal").rename(renamed / "beast")
    changed = Path(shutil.copytree(photos, tmp_path / "changed"))
    shutil.copy(changed / "thing" / "0.jpg", changed / "thing" / "1.jpg")
    stores = {
        "dtype was float16, is float32": make_store(tmp_path / "f32.zarr", photos, "float32"),
        "class_names.0 was animal, is beast": make_store(tmp_path / "renamed.zarr", renamed),
        "source was ": make_store(tmp_path / "changed.zarr", changed),
    }

    for sentence, other in stores.items():
        done = run(other, finished, "--steps", "70", "--resume")
        assert done.exit_code == 1 and f"was begun otherwise: {sentence}" in done.output
        assert "resume it as it was, or begin another run" in done.output


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(run, store, tmp_path):
    out = tmp_path / "run"
    (out / "samples").mkdir(parents=True)
    (out / "samples" / "drawn_with.json").write_text("{}")
    (out / "metrics.jsonl").write_text('{"step": 0, "latent_fd": 7.0}\n{"step": 10, "loss": 1.0}\n{"ste')
    (out / ".state.safetensors.0123.partial").touch()
    resumed = run(store, out, "--steps", "10", "--resume")
    again = run(store, out, "--steps", "10", "--num-samples", "1")

    assert resumed.exit_code == 1 and "resume from; start it without --resume" in resumed.output
    assert again.exit_code == 0, again.output
    assert [line["step"] for line in lines(out)] == [0, 10] and 7.0 not in distances(out).values()
    assert losses(out)[10] != 1.0


def test_resuming_what_was_never_begun_leaves_nothing_in_the_way(run, store, tmp_path):
    resumed = run(store, tmp_path / "run", "--resume", "--num-samples", "1")

    assert resumed.exit_code == 1 and not (tmp_path / "run").exists()


def test_two_ranks_make_the_losses_and_samples_of_one(store, finished, forks, tmp_path):
    arguments = [str(store), str(tmp_path / "run"), *TOY, "--steps", "60", "--save-every", "30", "--num-samples", "5"]
    program = f"import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    places = [launch | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    ranks = [forks.start(arguments, os.environ | place, program) for place in places]
    printed, said = zip(*(rank.communicate(timeout=240) for rank in ranks), strict=True)

    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert "".join(printed).count("step 60:") == 1  # one rank tells
    assert losses(tmp_path / "run") == pytest.approx(losses(finished), rel=1e-2)
    assert distances(tmp_path / "run") == pytest.approx(distances(finished), rel=2e-2)
    assert {path.name for path in (tmp_path / "run" / "samples").glob("*.png")} == {f"00000{n}.png" for n in range(5)}


def test_ranks_share_each_batch_and_each_epoch_has_every_row_once(train_dit, store, monkeypatch):
    dataset, settings = LatentDataset(store), train_dit.Settings(batch_size=8)
    shares = []
    monkeypatch.setattr(train_dit.distributed, "world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(train_dit.distributed, "rank", lambda rank=rank: rank)
        shares.append([next(train_dit.batch_indices(dataset, settings, done)) for done in range(6)])

    batches = [sorted(one + other) for one, other in zip(*shares, strict=True)]
    assert [len(batch) for batch in batches] == [8] * 6
    for epoch in (batches[:3], batches[3:]):
        assert sorted(chain(*epoch)) == list(range(24))
    assert batches[:3] != batches[3:]


def test_the_sampler_follows_a_known_velocity_to_the_data(train_dit, store):
    """If all data is one point, the velocity of x at t is (x - point) / t: a straight line that ends at the point."""

    class Exact(torch.nn.Module):
        def forward(self, latents, times, labels):
            return (latents - 3) / times[:, None, None, None]

    settings = train_dit.Settings(batch_size=4, sampling_steps=3)
    samples = train_dit.Samples(Exact(), LatentDataset(store), None, settings, torch.device("cpu"))

    (drawn,) = samples.latents(range(4), 4)

    torch.testing.assert_close(drawn, torch.full((4, 8, 2, 2), 3.0))


def test_no_sample_begins_from_noise_that_was_trained_with(train_dit, store):
    class Still(torch.nn.Module):
        def forward(self, latents, times, labels):
            return torch.zeros_like(latents)

    dataset, settings = LatentDataset(store), train_dit.Settings(batch_size=8)
    samples = train_dit.Samples(Still(), dataset, None, settings, torch.device("cpu"))
    trained = [train_dit.draw(settings, step, torch.empty(8, 8, 2, 2))[0] for step in range(16)]
    begun = torch.cat(list(samples.latents(range(16), 16)))

    assert len(torch.cat([begun, *trained]).flatten(1).unique(dim=0)) == 16 + 16 * 8
    assert begun.mean().abs() < 0.2 and 0.8 < begun.std() < 1.2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--class-dropout", "3"], "--class-dropout is 3.0; give a number from 0 to below 1"),
        (["--ema", "1"], "--ema is 1.0; give a number from 0 to below 1"),
        (
            ["--seed", "9223372036854775808"],
            "--seed is 9223372036854775808; give a number from 0 to below 8796093022208",
        ),
        (["--guidance", "nan"], "--guidance is nan; give a number from 0 to below inf"),
        (["--lr", "nan"], "--lr is nan; give a number from 0 to below inf"),
        (["--guidance", "4", "--class-dropout", "0"], "--guidance 4 needs training with --class-dropout above 0"),
        (["--heads", "3"], "--width 32 is not a multiple of --heads 3; change one of them"),
        (["--patch-size", "4"], "--patch-size 4 does not divide 2 latent positions; use 1"),
        (
            ["--batch-size", "25"],
            "has 24 latents, fewer than --batch-size 25; encode more images, or lower --batch-size",
        ),
        (["--model", "tcae-tiny"], "tcae-tiny has 6c4a2b735296; pass --model with the first"),
        (["--resume"], "has no state.safetensors to resume from; start it without --resume"),
        (["--device", "abacus"], "--device abacus is not a device"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(run, store, tmp_path, options, sentence):
    done = run(store, tmp_path / "run", *options)

    assert done.exit_code == 1 and sentence in done.output
    assert len(done.output.splitlines()) == 1


def test_out_has_to_be_a_folder_of_its_own(run, store, finished, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "other" / "samples").mkdir(parents=True)
    (tmp_path / "other" / "samples" / "000000.png").touch()

    sentences = {
        finished: "holds a run; continue it with --resume, or give another OUT",
        tmp_path / "file": "file is a file; name a folder",
        tmp_path / "other": "other/samples/000000.png is there; give another OUT",
    }
    for out, sentence in sentences.items():
        done = run(store, out)
        assert done.exit_code == 1 and sentence in done.output


def test_a_store_of_buckets_is_trained_on_and_samples_have_its_shapes(run, buckets, tmp_path):
    options = ["--steps", "30", "--save-every", "15", "--num-samples", "9"]
    whole = run(buckets, tmp_path / "whole", *options)
    begun = run(buckets, tmp_path / "run", "--steps", "15")
    resumed = run(buckets, tmp_path / "run", *options, "--resume")

    assert whole.exit_code == begun.exit_code == resumed.exit_code == 0, resumed.output
    assert losses(tmp_path / "whole")[30] < losses(tmp_path / "whole")[10]
    assert distances(tmp_path / "whole")[30] < distances(tmp_path / "whole")[0]
    shapes = set()
    for path in sorted((tmp_path / "whole" / "samples").glob("*.png")):
        assert (tmp_path / "run" / "samples" / path.name).read_bytes() == path.read_bytes()
        with Image.open(path) as sample:
            shapes.add(sample.size)
    assert shapes == {(160, 96), (128, 128), (96, 160)}
    with Image.open(tmp_path / "run" / "grids" / "step-0000030.png") as grid:
        assert grid.width == 8 * 164 + 4  # a row is as high as its highest image


def test_ranks_share_each_batch_of_a_bucket_and_an_epoch_continues_in_its_middle(
    train_dit, buckets, monkeypatch, capsys
):
    dataset, settings = LatentDataset(buckets), train_dit.Settings(batch_size=6)
    shares = []
    monkeypatch.setattr(train_dit.distributed, "world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(train_dit.distributed, "rank", lambda rank=rank: rank)
        shares.append([next(train_dit.batch_indices(dataset, settings, done)) for done in range(12)])

    batches = [sorted(one + other) for one, other in zip(*shares, strict=True)]
    assert {len(share) for share in chain(*shares)} == {3}
    assert all(any(set(batch) <= set(bucket.samples) for bucket in dataset.buckets) for batch in batches)
    for epoch in (batches[:6], batches[6:]):
        assert len(set(chain(*epoch))) == 36
    assert batches[:6] != batches[6:]
    whole = train_dit.batch_indices(dataset, settings, 0)
    assert [next(whole) for _ in range(12)] == shares[1]
    assert "each epoch leaves out 12 of 48 latents, which fill no batch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--patch-size", "2"], "--patch-size 2 does not divide 3 latent positions; use 1"),
        (["--batch-size", "17"], "has at most 16 latents of one shape, fewer than --batch-size 17; encode more images"),
    ],
)
def test_what_the_shapes_of_a_store_do_not_allow_is_said(run, buckets, tmp_path, options, sentence):
    done = run(buckets, tmp_path / "run", *options)

    assert done.exit_code == 1 and sentence in done.output
    assert len(done.output.splitlines()) == 1


def test_a_run_does_not_go_on_with_other_buckets(run, buckets, make_store, shaped_photos, tmp_path):
    begun = run(buckets, tmp_path / "run", "--steps", "1")
    source = Path(shutil.copytree(shaped_photos, tmp_path / "more"))
    shutil.copy(source / "animal" / "0-0.jpg", source / "animal" / "new.jpg")
    other = make_store(tmp_path / "more.zarr", source, sizes=(128,), buckets=True, bucket_step=32)
    done = run(other, tmp_path / "run", "--steps", "2", "--resume")

    sentence = "was begun otherwise: buckets.96x160 was 16, is 17; resume it as it was"
    assert begun.exit_code == 0, begun.output
    assert done.exit_code == 1 and sentence in done.output
