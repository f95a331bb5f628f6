"""A dry run of encoding: its figures against those of the store that is then made; it writes nothing."""

from pathlib import Path

import pytest
import torch

from tcae_cli.autoencoders.by_name import load_autoencoder, read_card
from tcae_cli.errors import NotFoundError, StoreError
from tcae_cli.evaluation.metrics.cost import counted_cost
from tcae_cli.jobs import plan_encode, rehearsal
from tcae_cli.jobs.plan_encode import plan_encoding
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.encode_plan import EncodePlan, EncodePlanRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.runtime.files import tree_bytes


@pytest.fixture
def plan(small_checkpoint):
    """Plans an encoding with the small model, in this process."""

    def run(source: Path, store: Path, num_ranks: int = 1, **options) -> EncodePlan:
        settings = {"model": str(small_checkpoint), "device": "cpu", "num_workers": 0} | options
        request = EncodeRequest(source=str(source), store=str(store), **settings)
        return plan_encoding(EncodePlanRequest(encode=request, num_ranks=num_ranks), Silent())

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("options", [{}, {"dtype": "int8", "flip": True}], ids=["float16", "int8 with flips"])
def test_bytes_files_and_shards_are_those_of_the_store_that_is_made(plan, encode, many_photos, tmp_path, options):
    store = tmp_path / "out.zarr"
    expected = plan(many_photos, store, batch_size=8, **options)
    assert not store.exists()

    encode(many_photos, store, batch_size=8, **options)

    assert expected.store_bytes == pytest.approx(tree_bytes(store), rel=0.05)
    assert expected.num_files == sum(path.is_file() for path in store.rglob("*"))
    assert expected.num_shards == sum(1 for _ in (store / ".tcae" / "commits").iterdir())
    assert (expected.num_images, expected.num_rows, expected.num_rows_left) == (240, 240, 240)
    assert expected.bytes_left == expected.store_bytes and expected.exit_code == 0


def test_the_model_and_the_pace_are_told(plan, photos, small_checkpoint, tmp_path):
    found = plan(photos, tmp_path / "out.zarr", batch_size=4)

    card, model = read_card(str(small_checkpoint)), load_autoencoder(str(small_checkpoint))
    counted = counted_cost(model, card, 64)
    assert found.encoder_hash == card.encoder_hash
    assert (found.encoder_parameters, found.encode_macs) == (counted["encoder-parameters"], counted["encode-macs"])
    measured = found.rehearsal
    assert 0 < measured.images_per_s.lowest <= measured.images_per_s.median <= measured.images_per_s.highest
    assert 0 < measured.batch_size <= 4  # smaller where a batch takes long
    assert measured.num_images == min(24, 3 * measured.batch_size * torch.get_num_threads())
    assert set(measured.stage_seconds) == {"read", "encode", "pack", "write"} and found.slowest_stage
    assert found.seconds.median == pytest.approx(24 / measured.images_per_s.median)


def test_rows_that_are_committed_are_not_counted_again_and_a_store_stays_as_it_is(plan, encode, many_photos, tmp_path):
    store = tmp_path / "out.zarr"
    encode(many_photos, store, num_parts=2, part=0)
    before = contents(store)

    whole, other = plan(many_photos, store, num_ranks=2), plan(many_photos, store, num_parts=2, part=1)

    assert whole.num_rows == 240 and whole.num_rows_left == other.num_rows_left == other.num_rows < 240
    assert whole.bytes_left == pytest.approx(whole.store_bytes * whole.num_rows_left / 240, abs=1)
    assert plan(many_photos, store, num_parts=2, part=0).seconds is None
    assert contents(store) == before


def test_a_slow_model_is_measured_on_smaller_batches(plan, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "_ENOUGH_S", 0.0)

    assert plan(photos, tmp_path / "out.zarr").rehearsal.batch_size == 1


def test_a_disk_that_is_too_small_is_named_and_makes_the_exit_code_1(plan, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(plan_encode, "free_bytes", lambda path: 1000)

    found = plan(photos, tmp_path / "out.zarr")

    assert found.exit_code == 1
    assert found.missing == [f"the disk of {tmp_path}/out.zarr is too small; free some space, or name another store"]


def test_what_encoding_refuses_a_dry_run_refuses(plan, encode, photos, tmp_path):
    encode(photos, tmp_path / "out.zarr")

    with pytest.raises(StoreError, match=r"out\.zarr cannot be continued: it was made with --flip absent, not given"):
        plan(photos, tmp_path / "out.zarr", flip=True)
    with pytest.raises(NotFoundError, match="nowhere does not exist"):
        plan(tmp_path / "nowhere", tmp_path / "other.zarr")
    with pytest.raises(NotFoundError, match="no model at nobody"):
        plan(photos, tmp_path / "other.zarr", model="nobody")


def test_images_that_cannot_be_read_are_counted(plan, make_folder, png, tmp_path):
    folder = make_folder({"a.png": png(), "b.png": png(), "c.png": b"not an image"})

    assert plan(folder, tmp_path / "out.zarr").rehearsal.num_failed == 1
