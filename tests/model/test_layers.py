import timm.layers
import torch
from torch.profiler import profile

from tcae_cli.model.layers import Attention


def tokens() -> torch.Tensor:
    return torch.randn(2, 17, 64, generator=torch.Generator().manual_seed(0))


def test_attention_is_that_of_timm_whose_weights_it_loads():
    torch.manual_seed(0)
    ours = Attention(64, 2)
    timms = timm.layers.Attention(64, 2, qkv_bias=True, qk_norm=True, norm_layer=timm.layers.LayerNorm)
    timms.load_state_dict(ours.state_dict())

    torch.testing.assert_close(ours(tokens()), timms(tokens()))


def test_attention_copies_nothing_into_another_layout():
    attention, inputs = Attention(64, 2).requires_grad_(False), tokens()
    with profile() as profiler:
        attention(inputs)

    names = {event.key for event in profiler.key_averages()}
    assert "aten::native_layer_norm" in names
    assert not names & {"aten::clone", "aten::contiguous", "aten::_reshape_copy"}
