import pytest
import torch

from tcae_cli.model.identity import decoder_hash, encoder_hash
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import ModelSpec

SMALL = {"image_size": 64, "patch_size": 8, "latent_channels": 6, "width": 32, "depths": (2, 1), "num_heads": 2}


@pytest.fixture(params=[True, False], ids=["staged", "single stage"])
def model(request) -> TCAE:
    torch.manual_seed(0)
    return TCAE(ModelSpec(**SMALL, staged=request.param, pixel_shortcut=True)).eval()


def images(*size: int) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("size", [(64, 64), (96, 32), (128, 160)])
def test_any_multiple_of_the_downsampling_encodes_and_decodes(model, size):
    latents = model.encode(images(*size))

    assert latents.shape == (2, 6, size[0] // 32, size[1] // 32)
    assert model.decode(latents).shape == (2, 3, *size)


def test_other_sizes_are_refused(model):
    with pytest.raises(ValueError, match="images of 64x48 are not multiples of 32"):
        model.encode(images(64, 48))


def test_an_image_encodes_alike_whatever_stands_beside_it_in_the_batch(model):
    batch = images(64, 64)

    torch.testing.assert_close(model.encode(batch)[:1], model.encode(batch[:1]))


def test_the_class_token_takes_part_in_the_latents(model):
    before = model.encode(images(64, 64))
    torch.nn.init.normal_(model.encoder.class_token, std=5)

    assert not torch.allclose(before, model.encode(images(64, 64)))


def test_staged_compression_is_in_the_path():
    model = TCAE(ModelSpec(**SMALL))
    before = model.encode(images(64, 64))
    torch.nn.init.normal_(model.encoder.compression[0].conv1.weight)

    assert not torch.allclose(before, model.encode(images(64, 64)))


def test_every_parameter_has_a_gradient_but_the_closed_form_shortcut(model):
    model(images(64, 64)).square().mean().backward()

    untrained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert untrained == {"shortcut_in", "shortcut_out"}


def test_the_pixel_shortcut_is_absent_unless_asked_for():
    assert not [name for name in TCAE(ModelSpec(**SMALL)).state_dict() if "shortcut" in name]


def test_parameter_names_are_frozen():
    """A renamed parameter makes every published checkpoint unreadable."""
    model = TCAE(ModelSpec(**{**SMALL, "depths": (1, 1)}, pixel_shortcut=True))
    block = [
        f"{layer}.{kind}"
        for layer in (
            "norm1",
            "attn.qkv",
            "attn.q_norm",
            "attn.k_norm",
            "attn.proj",
            "norm2",
            "mlp.fc1",
            "mlp.fc2",
        )
        for kind in ("weight", "bias")
    ]

    def both(*names):
        return [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]

    assert list(model.state_dict()) == [
        "encoder.class_token",
        *both("encoder.patch_embed.proj"),
        "encoder.positions.weight",
        *(f"encoder.fine_blocks.0.{name}" for name in block),
        *both("encoder.compression.0.conv1", "encoder.compression.0.conv2"),
        "encoder.compression.1.weight",
        *(f"encoder.coarse_blocks.0.{name}" for name in block),
        *both("encoder.norm", "to_latents.mlp.fc1", "to_latents.mlp.fc2"),
        *both("from_latents.mlp.fc1", "from_latents.mlp.fc2"),
        "decoder.positions.weight",
        *(f"decoder.coarse_blocks.0.{name}" for name in block),
        *both("decoder.expansion.0.conv1", "decoder.expansion.0.conv2"),
        "decoder.expansion.1.weight",
        *(f"decoder.fine_blocks.0.{name}" for name in block),
        *both("decoder.norm", "decoder.to_pixels", "shortcut_in", "shortcut_out"),
    ]


def test_a_changed_decoder_keeps_the_encoder_hash_and_the_other_way_round():
    model = TCAE(ModelSpec(**SMALL, pixel_shortcut=True))
    before = dict(model.state_dict())
    decoder_changed = {k: v + 1 if k.startswith(("decoder.", "shortcut_out")) else v for k, v in before.items()}
    encoder_changed = {k: v + 1 if k.startswith("shortcut_in") else v for k, v in before.items()}

    assert encoder_hash(before, model.spec) == encoder_hash(decoder_changed, model.spec)
    assert decoder_hash(before, model.spec) != decoder_hash(decoder_changed, model.spec)
    assert encoder_hash(before, model.spec) != encoder_hash(encoder_changed, model.spec)
    assert decoder_hash(before, model.spec) == decoder_hash(encoder_changed, model.spec)


def test_the_encoder_hash_knows_the_spec_and_the_dtype_but_not_the_image_size():
    model = TCAE(ModelSpec(**SMALL))
    tensors, spec = dict(model.state_dict()), model.spec
    halved = {name: value.half() for name, value in tensors.items()}

    assert encoder_hash(tensors, spec) == encoder_hash(tensors, spec.model_copy(update={"image_size": 128}))
    assert encoder_hash(tensors, spec) != encoder_hash(tensors, spec.model_copy(update={"num_heads": 4}))
    assert encoder_hash(tensors, spec) != encoder_hash(halved, spec)
