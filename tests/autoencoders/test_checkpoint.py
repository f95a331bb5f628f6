import math

import pytest
import safetensors.torch
import torch

from tcae_cli.autoencoders.by_name import load_autoencoder
from tcae_cli.autoencoders.checkpoint import ModelDescription, read_tensors, save_checkpoint, write_tensors
from tcae_cli.autoencoders.tcae import load_parent, read_header
from tcae_cli.errors import CheckpointError, NotFoundError
from tcae_cli.model.identity import encoder_hash
from tcae_cli.recipe.schema import ModelSpec


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
    with pytest.raises(CheckpointError, match="not a tcae checkpoint: its header has no 'tcae' entry"):
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


def test_a_hub_that_does_not_answer_is_a_sentence_and_is_asked_once(monkeypatch):
    asked = []

    def ask(url, timeout):
        asked.append(timeout)
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", ask)
    monkeypatch.setattr("tcae_cli.runtime.silence._silent_at", -math.inf)
    for _ in range(2):
        with pytest.raises(NotFoundError, match=r"fetched \(the Hub does not answer, and the file is not in the cache"):
            read_header("hf://nobody/nothing")
    assert len(asked) == 1 and asked[0] < 10


def spec_of(name, **changes) -> ModelSpec:
    return ModelSpec.model_validate(read_header(str(name)).spec.model_dump() | changes)


def save_child(path, model, parent, tensors):
    """Save as a training run does: weights in half precision, except those that are shipped unchanged."""
    half = {name: value.half() for name, value in model.state_dict().items()}
    statistics = read_header("tcae-tiny").statistics
    description = ModelDescription(spec=model.spec, statistics=statistics, recipe={}, step=1, parent=parent)
    save_checkpoint(path, half | tensors, description)


def test_a_finetuned_model_names_its_parent(small_checkpoint, tmp_path):
    model, parent, tensors = load_parent(str(small_checkpoint), spec_of(small_checkpoint), freeze_encoder=False)
    save_child(tmp_path / "child.safetensors", model, parent, tensors)

    header = read_header(str(small_checkpoint))
    assert read_header(str(tmp_path / "child.safetensors")).parent == parent
    assert (parent.name, parent.encoder_hash, parent.decoder_hash) == (
        "small",
        header.encoder_hash,
        header.decoder_hash,
    )


def test_the_parents_weights_are_the_childs_to_train(small_checkpoint):
    model, _, tensors = load_parent(str(small_checkpoint), spec_of(small_checkpoint), freeze_encoder=False)

    stored, _ = read_tensors(small_checkpoint)
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())
    assert tensors == {}


def test_positions_are_resized_to_another_image_size(small_checkpoint):
    model, _, _ = load_parent(str(small_checkpoint), spec_of(small_checkpoint, image_size=128), freeze_encoder=False)
    original = load_autoencoder(str(small_checkpoint))
    images = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1

    grids = {
        name: value.shape[1] for name, value in model.state_dict().items() if value.ndim == 4 and value.shape[0] == 1
    }
    assert grids == {
        "encoder.positions.weight": 16,
        "encoder.compression.1.weight": 8,
        "decoder.positions.weight": 8,
        "decoder.expansion.1.weight": 16,
    }
    # What a forward of the original resizes on the way is now what is learnt.
    assert torch.allclose(model.eval()(images), original(images), atol=1e-5)


def test_a_frozen_encoder_ships_to_the_bit_from_half_precision_and_at_another_size(tmp_path):
    """tcae-tiny is stored in float16; its encoder keeps its positions, its decoder is resized."""
    model, parent, tensors = load_parent("tcae-tiny", spec_of("tcae-tiny", image_size=64), freeze_encoder=True)
    save_child(tmp_path / "child.safetensors", model, parent, tensors)
    child, original = load_autoencoder(str(tmp_path / "child.safetensors")), load_autoencoder("tcae-tiny")
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1

    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert read_header(str(tmp_path / "child.safetensors")).encoder_hash == read_header("tcae-tiny").encoder_hash
    assert torch.equal(child.encode(images), original.encode(images))
    assert child.encoder.positions.weight.shape[1] == 16
    assert child.decoder.expansion[1].weight.shape[1] == 4


def test_a_frozen_encoder_trains_nothing_but_the_decoder(small_checkpoint):
    model, _, tensors = load_parent(str(small_checkpoint), spec_of(small_checkpoint), freeze_encoder=True)

    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.partition(".")[0] for name in trained} == {"decoder", "from_latents"}
    assert trained | tensors.keys() == set(model.state_dict()) and not trained & tensors.keys()


def test_a_child_of_a_child_keeps_the_frozen_encoder(small_checkpoint, tmp_path):
    name = str(small_checkpoint)
    for size in (128, 192):
        model, parent, tensors = load_parent(name, spec_of(name, image_size=size), freeze_encoder=True)
        name = str(tmp_path / f"{size}.safetensors")
        save_child(tmp_path / f"{size}.safetensors", model, parent, tensors)

    assert read_header(name).encoder_hash == read_header(str(small_checkpoint)).encoder_hash
    assert read_header(name).parent.name == "128"
    assert load_autoencoder(name).decoder.expansion[1].weight.shape[1] == 24


def test_weights_that_do_not_fit_the_recipes_model_are_refused(small_checkpoint):
    with pytest.raises(CheckpointError, match="do not fit the recipe's model; omit its keys of `model`"):
        load_parent(str(small_checkpoint), spec_of(small_checkpoint, width=64), freeze_encoder=False)


def test_weights_that_do_not_fit_their_own_header_are_refused(small_checkpoint, tmp_path):
    tensors, header = read_tensors(small_checkpoint)
    del tensors["decoder.positions.weight"]
    write_tensors(tmp_path / "odd.safetensors", tensors, header)
    with pytest.raises(
        CheckpointError, match=r"odd.safetensors: the weights do not fit the model its header describes"
    ):
        load_autoencoder(str(tmp_path / "odd.safetensors"))


def test_a_damaged_parent_is_noticed(small_checkpoint, tmp_path):
    tensors, header = read_tensors(small_checkpoint)
    tensors["encoder.norm.bias"] += 1
    write_tensors(tmp_path / "damaged.safetensors", tensors, header)
    with pytest.raises(CheckpointError, match="do not match the hash in the header"):
        load_parent(str(tmp_path / "damaged.safetensors"), spec_of(small_checkpoint), freeze_encoder=False)
