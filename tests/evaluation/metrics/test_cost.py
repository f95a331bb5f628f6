"""What a model costs: against the paper's table, and against counts of the same model's parts."""

import os

import pytest
import torch
from torch import nn

from tcae_cli.autoencoders.by_name import ModelCard, load_autoencoder, read_card
from tcae_cli.autoencoders.runner import Runner
from tcae_cli.evaluation.metrics.cost import cost_figures, counted_cost
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import ModelSpec
from tcae_cli.runtime import memory

CPU = torch.device("cpu")


def card(channels, downsampling) -> ModelCard:
    return ModelCard("made here", "", 256, channels, downsampling, {}, {})


def num_parameters(*modules):
    return sum(each.numel() for module in modules for each in module.parameters())


class ByOtherNames(nn.Module):
    """An autoencoder of another library: a convolution each way, one of them by the function of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 5, 4, stride=4)
        self.up = nn.ConvTranspose2d(5, 3, 4, stride=4)
        self.unused = nn.Linear(100, 100)
        self.register_buffer("scale", torch.ones(5, 1, 1))

    def encode(self, images):
        return nn.functional.conv2d(images, self.down.weight, self.down.bias, stride=4) * self.scale

    def decode(self, latents):
        return self.up(latents / self.scale)


def test_the_paper_s_model_costs_164_gmacs_half_of_them_to_encode():
    with torch.device("meta"):
        model = TCAE(ModelSpec.model_validate({"preset": "B"}))
    figures = counted_cost(model, card(128, 32), 256)

    assert figures["encode-macs"] == pytest.approx(82.0e9, rel=0.005)
    assert figures["encode-macs"] + figures["decode-macs"] == pytest.approx(164.0e9, rel=0.005)
    assert figures["encoder-parameters"] + figures["decoder-parameters"] == pytest.approx(212.9e6, rel=0.005)


@pytest.mark.parametrize("pixel_shortcut", [True, False])
def test_every_parameter_is_the_encoder_s_or_the_decoder_s(pixel_shortcut):
    spec = {"width": 32, "num_heads": 2, "depths": (1, 1), "latent_channels": 8, "pixel_shortcut": pixel_shortcut}
    model = TCAE(ModelSpec.model_validate({"image_size": 64, **spec}))

    figures = counted_cost(model, card(8, 32), 64)

    into = [model.encoder, model.to_latents, *([model.shortcut_in] if pixel_shortcut else [])]
    assert figures["encoder-parameters"] == num_parameters(*into)
    assert figures["decoder-parameters"] == num_parameters(model) - num_parameters(*into)


def test_parts_of_any_model_are_told_by_what_they_read():
    figures = counted_cost(ByOtherNames(), card(5, 4), 32)

    products = 8 * 8 * 5 * 3 * 4 * 4
    assert figures == {
        "encoder-parameters": 5 * 3 * 16 + 5,
        "decoder-parameters": 5 * 3 * 16 + 3,
        "encode-macs": products,
        "decode-macs": products,
    }


def test_counting_leaves_the_model_as_it_is():
    model = ByOtherNames()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    counted_cost(model, card(5, 4), 32)

    assert all(tensor.device == CPU for tensor in model.state_dict().values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_time_and_memory_are_measured_on_top_of_what_is_counted(small_checkpoint, precision):
    model, known = load_autoencoder(str(small_checkpoint)), read_card(str(small_checkpoint))
    figures = cost_figures(Runner("small", model, CPU, precision), known, 64, 2)

    counted = counted_cost(model, known, 64)
    assert {name: figures[name] for name in counted} == counted
    assert figures["encode-images-per-s"] > 0 and figures["decode-images-per-s"] > 0


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak is read off Linux's /proc")
def test_the_peak_is_what_a_batch_takes_at_once_even_if_memory_of_before_is_at_hand():
    class Greedy(ByOtherNames):
        def encode(self, images):
            if images.device == CPU:
                torch.ones(2**24)  # 64 MiB, and gone again
            return super().encode(images)

    figures = cost_figures(Runner("greedy", Greedy(), CPU, "fp32"), card(5, 4), 32, 1)

    assert 0.9 * 2**26 <= figures["encode-peak-bytes"] < 2**27
    assert figures["decode-peak-bytes"] < 2**25


def test_where_memory_cannot_be_had_it_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_PROCESS", tmp_path)  # a system without /proc

    figures = cost_figures(Runner("other", ByOtherNames(), CPU, "fp32"), card(5, 4), 32, 1)

    assert not [name for name in figures if name.endswith("-peak-bytes")]
    assert {"encode-images-per-s", "decode-images-per-s"} <= figures.keys()
