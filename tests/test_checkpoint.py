import pytest
import safetensors.torch
import torch

from tcae_cli.checkpoint import load_autoencoder, read_header, read_tensors, write_tensors
from tcae_cli.errors import CheckpointError, NotFoundError
from tcae_cli.model.identity import encoder_hash


def test_a_model_comes_back_as_it_was_saved(small_checkpoint):
    model = load_autoencoder(str(small_checkpoint))
    tensors, _ = read_tensors(small_checkpoint)

    assert not model.training
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())


def test_the_header_says_whose_latents_these_are(small_checkpoint):
    header = read_header(str(small_checkpoint))

    assert header.encoder_hash == encoder_hash(read_tensors(small_checkpoint)[0], header.spec)
    assert header.name == "small"
    assert header.parent is None


def test_a_run_folder_is_a_model(small_checkpoint, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(small_checkpoint.read_bytes())

    assert read_header(str(tmp_path)) == read_header(str(small_checkpoint))


def test_a_name_that_leads_nowhere_lists_the_ways_to_name_a_model():
    with pytest.raises(NotFoundError, match=r"no model at nowhere; give a file, a run folder, hf://org/name or"):
        load_autoencoder("nowhere")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "photo.safetensors").write_bytes(b"\xff\xd8 a photograph")
    with pytest.raises(CheckpointError, match=r"photo.safetensors is not a safetensors file"):
        load_autoencoder(str(tmp_path / "photo.safetensors"))


def test_weights_of_something_else_are_refused(tmp_path):
    safetensors.torch.save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no tcae checkpoint: its header has no 'tcae' entry"):
        load_autoencoder(str(tmp_path / "other.safetensors"))


def test_a_header_of_another_version_names_the_field(tmp_path):
    write_tensors(tmp_path / "odd.safetensors", {"weight": torch.zeros(1)}, '{"name": 3}')
    with pytest.raises(CheckpointError, match="the header's name is not what this version of tcae reads"):
        read_header(str(tmp_path / "odd.safetensors"))


def test_a_changed_encoder_weight_is_noticed(small_checkpoint, tmp_path):
    tensors, header = read_tensors(small_checkpoint)
    tensors["encoder.norm.bias"] += 1
    write_tensors(tmp_path / "damaged.safetensors", tensors, header)
    with pytest.raises(CheckpointError, match="do not match the hash in the header"):
        load_autoencoder(str(tmp_path / "damaged.safetensors"))


def test_a_model_on_the_hub_that_cannot_be_fetched_says_so(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NotFoundError, match=r"hf://nobody/nothing@v1: model.safetensors could not be fetched"):
        read_header("hf://nobody/nothing@v1")
