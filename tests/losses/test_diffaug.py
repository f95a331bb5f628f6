"""DiffAug equals plain loops over images and pixels."""

import pytest
import torch
from torch import Tensor

from tcae_cli.losses.diffaug import diffaug, draw_diffaug

SAMPLES = [3, 4, 5, 2**33]
NOTHING = [0.0, 0.0, 0.0, 1.0, 1.0]  # shift down, shift right, brightness, saturation, contrast


def images(count: int = len(SAMPLES), height: int = 16, width: int = 24) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def moved(image: Tensor, down: int, right: int) -> Tensor:
    _, height, width = image.shape
    out = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                out[:, y, x] = image[:, y - down, x - right]
    return out


def test_images_change_as_in_a_plain_loop():
    parameters = draw_diffaug(1, SAMPLES, "real", 1.0)
    expected = []
    for image, (down, right, brightness, saturation, contrast) in zip(images(), parameters.tolist(), strict=True):
        image = image + brightness
        grey = (image[0] + image[1] + image[2]) / 3
        image = (image - grey) * saturation + grey
        image = (image - image.mean()) * contrast + image.mean()
        # An eighth of 16 pixels is 2 each way, of 24 it is 3; each whole number has an equal share of [-1, 1).
        expected.append(moved(image, int((down * 2.5 + 0.5) // 1), int((right * 3.5 + 0.5) // 1)))

    torch.testing.assert_close(diffaug(images(), parameters), torch.stack(expected))


@pytest.mark.parametrize(("shift", "pixels"), [(-1.0, -2), (-0.61, -2), (-0.59, -1), (0.0, 0), (0.21, 1), (0.99, 2)])
def test_a_shift_reaches_an_eighth_of_the_side_and_leaves_zeros(shift, pixels):
    image = images(1)
    down = torch.tensor([[shift, *NOTHING[1:]]])

    assert torch.equal(diffaug(image, down)[0], moved(image[0], pixels, 0))


def test_every_number_is_drawn_over_its_range():
    drawn = draw_diffaug(0, range(2000), "real", 1.0)

    lowest, highest = drawn.min(dim=0).values.tolist(), drawn.max(dim=0).values.tolist()
    assert lowest == pytest.approx([-1, -1, -0.5, 0, 0.5], abs=0.01)
    assert highest == pytest.approx([1, 1, 0.5, 2, 1.5], abs=0.01)
    assert drawn.mean(dim=0).tolist() == pytest.approx([0, 0, 0, 1, 1], abs=0.05)


def test_draws_depend_on_seed_stream_and_sample_alone():
    drawn = draw_diffaug(1, SAMPLES, "real", 1.0)

    assert torch.equal(drawn, draw_diffaug(1, SAMPLES, "real", 1.0))
    assert torch.equal(drawn[2:], draw_diffaug(1, SAMPLES[2:], "real", 1.0))
    others = [draw_diffaug(2, SAMPLES, "real", 1.0), draw_diffaug(1, SAMPLES, "fake", 1.0), drawn.roll(1, 0)]
    assert all((drawn != other).any(dim=1).all() for other in others)


def test_the_cut_of_a_batch_does_not_show():
    whole = diffaug(images(), draw_diffaug(1, SAMPLES, "real", 1.0))
    parts = [diffaug(images()[cut], draw_diffaug(1, SAMPLES[cut], "real", 1.0)) for cut in (slice(1), slice(1, 4))]

    torch.testing.assert_close(torch.cat(parts), whole)


def test_images_that_are_not_drawn_stay_as_they_are_to_the_bit():
    assert torch.equal(diffaug(images(), draw_diffaug(1, SAMPLES, "real", 0.0)), images())


def test_the_probability_is_the_share_of_images_that_change():
    changed = (draw_diffaug(0, range(2000), "real", 0.3) != torch.tensor(NOTHING)).any(dim=1)

    assert float(changed.float().mean()) == pytest.approx(0.3, abs=0.03)


def test_the_gradient_flows_back_to_the_pixels_that_are_still_seen():
    leaf = images(1).requires_grad_()
    down_and_right = torch.tensor([[0.99, 0.99, *NOTHING[2:]]])
    diffaug(leaf, down_and_right).sum().backward()

    seen = torch.zeros(1, 3, 16, 24)
    seen[..., :-2, :-3] = 1
    torch.testing.assert_close(leaf.grad, seen)


def test_gradients_are_those_of_finite_differences():
    leaf = images(2, 8, 8).double().requires_grad_()
    parameters = draw_diffaug(1, SAMPLES[:2], "real", 1.0).double()

    assert torch.autograd.gradcheck(lambda x: diffaug(x, parameters), leaf)
