"""The adversarial losses equal plain loops, and the gradient at the last weight equals the real decoder's."""

import pytest
import torch
from torch import Tensor

from tcae_cli.losses.adversarial import (
    adaptive_weight,
    discriminator_accuracy,
    discriminator_loss,
    generator_loss,
    last_weight_gradient,
)
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import ModelSpec

REAL = torch.tensor([[2.0, 0.5, -0.5], [0.0, 1.0, 3.0]])
FAKE = torch.tensor([[-3.0, -0.5], [0.5, 0.0]])


def test_the_discriminators_loss_is_half_the_hinge_of_both_sides():
    real = sum(max(0.0, 1 - float(x)) for x in REAL.flatten()) / REAL.numel()
    fake = sum(max(0.0, 1 + float(x)) for x in FAKE.flatten()) / FAKE.numel()

    assert float(discriminator_loss(REAL, FAKE)) == pytest.approx(0.5 * (real + fake))


def test_a_discriminator_that_tells_nothing_loses_one():
    assert float(discriminator_loss(torch.zeros(2, 5), torch.zeros(2, 5))) == 1


def test_logits_beyond_the_margin_are_left_alone():
    real = torch.tensor([[1.5, 0.5]], requires_grad=True)
    fake = torch.tensor([[-1.5, -0.5]], requires_grad=True)
    discriminator_loss(real, fake).backward()

    assert real.grad.tolist() == [[0, -0.25]]
    assert fake.grad.tolist() == [[0, 0.25]]


def test_the_generator_raises_the_mean_logit():
    fake = FAKE.clone().requires_grad_()
    loss = generator_loss(fake)
    loss.backward()

    assert float(loss.detach()) == pytest.approx(-sum(float(x) for x in FAKE.flatten()) / FAKE.numel())
    assert (fake.grad == -1 / FAKE.numel()).all()


def test_accuracy_is_the_share_of_logits_with_the_right_sign():
    assert float(discriminator_accuracy(REAL[:, :2], FAKE)) == pytest.approx(5 / 8)
    assert float(discriminator_accuracy(REAL[:, 1:].abs(), FAKE - 1)) == 1
    assert float(discriminator_accuracy(torch.zeros(1, 3), torch.zeros(1, 3))) == 0


@pytest.mark.parametrize("pixel_shortcut", [False, True])
def test_the_gradient_at_the_last_weight_is_the_real_decoders(pixel_shortcut):
    torch.manual_seed(0)
    spec = ModelSpec(
        image_size=64, latent_channels=8, width=32, depths=(1, 1), num_heads=2, pixel_shortcut=pixel_shortcut
    )
    model, latents = TCAE(spec), torch.randn(2, 8, 2, 3)
    images, tokens = model.decode_with_last_tokens(latents)
    leaf = images.detach().requires_grad_()
    (at_images,) = torch.autograd.grad(_some_loss(leaf), leaf)

    found = last_weight_gradient(at_images, tokens, spec.patch_size)

    (expected,) = torch.autograd.grad(_some_loss(images), model.decoder.to_pixels.weight)
    assert expected.abs().sum() > 0
    torch.testing.assert_close(found, expected)


def test_the_gradient_at_the_last_weight_is_float32_and_no_graph_hangs_on_it():
    tokens = torch.randn(1, 2, 2, 4, dtype=torch.bfloat16, requires_grad=True)
    found = last_weight_gradient(torch.randn(1, 3, 4, 4, dtype=torch.bfloat16), tokens, 2)

    assert found.shape == (12, 4) and found.dtype == torch.float32
    assert not found.requires_grad


def test_the_adaptive_weight_is_the_ratio_of_the_norms():
    reconstruction, generator = torch.full((12, 4), 3.0), torch.full((12, 4), -0.5)

    assert float(adaptive_weight(reconstruction, generator)) == pytest.approx(6, rel=1e-5)


def test_the_adaptive_weight_stays_finite_and_bounded():
    gradient, nothing = torch.ones(12, 4), torch.zeros(12, 4)

    assert float(adaptive_weight(gradient, nothing)) == 1e4
    assert float(adaptive_weight(nothing, gradient)) == 0
    assert float(adaptive_weight(nothing, nothing)) == 0


def _some_loss(images: Tensor) -> Tensor:
    weights = torch.linspace(-1, 2, images.numel()).view(images.shape)
    return (weights * images.square()).sum() + images.sin().mean()
