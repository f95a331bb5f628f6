"""`tcae export` as it is typed."""

import json

import click
import pytest

from tcae_cli.commands.export import export as command
from tcae_cli.errors import StoreError, UsageError


def test_the_report_is_json_and_the_exit_code_zero(store, tmp_path, capsys):
    arguments = [store.folder.uri, str(tmp_path / "out"), "--format", "dc-ae", "--scale", "0.5", "--json"]

    assert command.main(arguments, standalone_mode=False) == 0

    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert (report["num_rows"], report["num_not_ok"], report["num_written_now"], report["scale"]) == (23, 1, 23, 0.5)
    assert report["num_bytes"] > 23 * 32 * 4 and report["target"] == str(tmp_path / "out")
    assert "export: 23 of 23 rows" in printed.err


def test_the_scale_of_the_model_is_that_of_its_statistics(store, tmp_path, capsys):
    arguments = [store.folder.uri, str(tmp_path / "out"), "--format", "webdataset", "--scale", "model", "--json"]
    assert command.main(arguments, standalone_mode=False) == 0
    assert json.loads(capsys.readouterr().out)["scale"] == "model"
    about = json.loads((tmp_path / "out" / "tcae_export.json").read_text())
    assert (about["values"], about["scale"]) == ("(patches of raw - shift) * scale of generator", "model")
    assert len(about["generator"]["scale"]) == store.sample_shape[0]


def test_a_scale_that_is_neither_a_number_nor_model_is_refused(store, tmp_path):
    arguments = [store.folder.uri, str(tmp_path / "out"), "--format", "dc-ae", "--scale", "vae"]
    with pytest.raises(click.BadParameter, match="'vae' is not a valid float"):
        command.main(arguments, standalone_mode=False)


def test_a_store_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"nothing\.zarr is not a store of latents"):
        command.main([str(tmp_path / "nothing.zarr"), str(tmp_path / "out"), "--format", "npy"], standalone_mode=False)


def test_an_object_store_is_refused_as_it_was_typed(store):
    arguments = [store.folder.uri, "s3://bucket/out", "--format", "npy"]
    with pytest.raises(UsageError, match=r"^s3://bucket/out is not a local path"):
        command.main(arguments, standalone_mode=False)


def test_a_view_that_is_not_there_is_named_with_those_that_are(store, tmp_path):
    arguments = [store.folder.uri, str(tmp_path / "out"), "--format", "npy", "--view", "latents_512"]
    with pytest.raises(UsageError, match="has no view latents_512; it has latents, latents_flip"):
        command.main(arguments, standalone_mode=False)
