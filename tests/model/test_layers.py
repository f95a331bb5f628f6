import pytest
import timm.layers
import torch
from torch import nn
from torch.profiler import profile

from tcae_cli.model.layers import Attention, LayerNorm, Mlp, PatchEmbedding, PositionEmbedding


def tokens() -> torch.Tensor:
    return torch.randn(2, 17, 64, generator=torch.Generator().manual_seed(0))


def test_attention_is_that_of_timm_whose_weights_it_loads():
    torch.manual_seed(0)
    ours = Attention(64, 2)
    timms = timm.layers.Attention(64, 2, qkv_bias=True, qk_norm=True, norm_layer=timm.layers.LayerNorm)
    timms.load_state_dict(ours.state_dict())

    torch.testing.assert_close(ours(tokens()), timms(tokens()))


@pytest.mark.parametrize(
    ("ours", "timms", "shape"),
    [
        (lambda: LayerNorm(64), lambda: timm.layers.LayerNorm(64), (2, 17, 64)),
        (lambda: Mlp(64, 256, 32), lambda: timm.layers.Mlp(64, 256, 32), (2, 17, 64)),
        (
            lambda: PatchEmbedding(8, 64),
            lambda: timm.layers.PatchEmbed(None, 8, 3, 64, flatten=False, output_fmt="NHWC"),
            (2, 3, 32, 48),
        ),
    ],
    ids=["norm", "mlp", "patches"],
)
def test_layers_are_timms_to_the_bit(ours, timms, shape):
    def made(layer) -> nn.Module:
        torch.manual_seed(0)
        return layer()

    tensors, expected = made(ours).state_dict(), made(timms).state_dict()
    assert list(tensors) == list(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    outputs = made(ours)(inputs)
    assert torch.equal(outputs, made(timms)(inputs)) and outputs.stride() == made(timms)(inputs).stride()


@pytest.mark.parametrize("shape", [(4, 4), (8, 8), (3, 7)])
def test_positions_are_resized_as_timm_resizes_them_to_the_bit(shape):
    torch.manual_seed(0)
    positions = PositionEmbedding(4, 64).bfloat16()
    resized = timm.layers.resample_abs_pos_embed_nhwc(positions.weight, list(shape))
    assert torch.equal(positions(torch.zeros(1, *shape, 64).bfloat16()), resized)


def test_attention_copies_nothing_into_another_layout():
    attention, inputs = Attention(64, 2).requires_grad_(False), tokens()
    with profile() as profiler:
        attention(inputs)

    names = {event.key for event in profiler.key_averages()}
    assert "aten::native_layer_norm" in names
    assert not names & {"aten::clone", "aten::contiguous", "aten::_reshape_copy"}
